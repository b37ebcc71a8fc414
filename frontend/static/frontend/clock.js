// <time data-ago datetime="…"> says how long ago; the exact moment stays in its title.

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

tell();
setInterval(tell, 5000);
document.addEventListener("fs-refreshed", tell);
