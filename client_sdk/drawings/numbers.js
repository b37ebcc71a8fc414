// Numbers and moments as people read them.

const THIN = "\u202f";

/** 12 345 */
export const count = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN);

/** 0.4321, 12.34, 1.2e-7: four digits that mean something. */
export function metric(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.01 || size >= 1e5)) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

/** 83 % */
export const share = (value) => `${Math.floor(100 * value + 1e-9)}${THIN}%`;

/** Some accuracy, told as a share with a decimal; other metrics as they are. */
export const named = (name, value) =>
  name.includes("accuracy") ? `${(100 * value).toFixed(1)}${THIN}%` : metric(value);

/** 850 ms, 12 s, 4 min 5 s, 2 h 10 min */
export function duration(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return inWords(Math.round(seconds));
}

/** The same in whole seconds, for what changes by the second. */
export function inWords(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.floor(whole / 60);
  if (whole < 86400) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  const hours = Math.floor(whole / 3600);
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

/** 4:05, 1:02:33: what is left of a countdown. */
export function clockface(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** just now, 12 s ago, 3 min ago */
export function ago(seconds) {
  if (seconds < 3) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** 14:03:27, with the day where it is not today's. */
export function timeOfDay(moment, now = Date.now(), { seconds = true } = {}) {
  const date = new Date(moment);
  const today = date.toDateString() === new Date(now).toDateString();
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (seconds) options.second = "2-digit";
  if (!today) Object.assign(options, { day: "numeric", month: "short" });
  return formatter(`${seconds}${today}`, options).format(date);
}

/** The whole of a moment, for a title. */
export const inFull = (moment) => formatter("full", { dateStyle: "medium", timeStyle: "medium" }).format(new Date(moment));

const formatters = new Map(); // each costs more than a hundred uses of it

function formatter(name, options) {
  if (!formatters.has(name)) formatters.set(name, new Intl.DateTimeFormat(undefined, options));
  return formatters.get(name);
}

export const plural = (number, one, many) => (number === 1 ? one : many);
