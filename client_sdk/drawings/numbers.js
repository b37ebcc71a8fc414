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

/** 83.4 % */
export const percent = (value) => `${(100 * value).toFixed(1)} %`;

/** 7, 0.4321: a number of any size. */
export const plain = (value) => (Number.isInteger(value) ? String(value) : value.toPrecision(4));

/** 4.2 MB, in decimal units */
export function size(bytes) {
  let left = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (left < 1000) return `${unit === "B" || left >= 100 ? left.toFixed(0) : left.toFixed(1)} ${unit}`;
    left /= 1000;
  }
  return `${left.toFixed(1)} TB`;
}

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
export const inWords = (seconds) => units(seconds).slice(0, 2).join(" ");

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** ["1 h", "5 min", "5 s"]: whole seconds, the greatest unit first, as the server tells them. */
export function units(seconds) {
  const parts = [];
  let left = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of UNITS) {
    if (left >= size) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return parts.length ? parts : ["0 s"];
}

/** 4:05, 1:02:33: what is left of a countdown. */
export function clockface(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** just now, 12 s ago, 3 min ago */
export const ago = (seconds) => (seconds < 5 ? "just now" : `${units(seconds)[0]} ago`);

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
