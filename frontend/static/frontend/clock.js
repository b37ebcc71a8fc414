// <time data-ago datetime="…"> says how long ago; the exact moment stays in its title.
// <time data-until datetime="…"> says how long it still takes: "4 min 12 s left".

const STEPS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function ago(seconds) {
  if (seconds < 5) return "just now";
  const [size, unit] = STEPS.find(([step]) => seconds >= step) ?? STEPS.at(-1);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

function tell() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const moment = new Date(time.dateTime);
    const text = ago((now - moment) / 1000);
    if (time.textContent === text) continue;
    time.title = moment.toLocaleString();
    time.textContent = text;
  }
}

export function left(seconds) {
  if (seconds < 1) return "any moment now";
  const parts = [];
  let rest = Math.floor(seconds);
  for (const [size, unit] of STEPS) {
    if (rest >= size) parts.push(`${Math.floor(rest / size)} ${unit}`);
    rest %= size;
  }
  return `${parts.slice(0, 2).join(" ")} left`;
}

function count() {
  for (const time of document.querySelectorAll("time[data-until]")) {
    const moment = new Date(time.dateTime);
    const text = left((moment - Date.now()) / 1000);
    if (time.textContent === text) continue;
    time.title = moment.toLocaleString();
    time.textContent = text;
  }
}

tell();
count();
setInterval(tell, 5000);
setInterval(count, 1000);
document.addEventListener("fs-refreshed", tell);
document.addEventListener("fs-refreshed", count);
