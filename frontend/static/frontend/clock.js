// <time data-ago datetime="…"> says how long ago; the exact moment stays in its title.
// <time data-until datetime="…"> says how long it still takes: "4 min 12 s left".
import { ago, inWords } from "../drawings/numbers.js";

function tell(selector, words) {
  for (const time of document.querySelectorAll(selector)) {
    const moment = new Date(time.dateTime);
    const text = words((Date.now() - moment) / 1000);
    if (time.textContent === text) continue;
    time.title = moment.toLocaleString();
    time.textContent = text;
  }
}

const left = (seconds) => (seconds < 1 ? "any moment now" : `${inWords(seconds)} left`);
const count = () => tell("time[data-ago]", ago);
const countDown = () => tell("time[data-until]", (passed) => left(-passed));

for (const [how, pause] of [[count, 5000], [countDown, 1000]]) {
  how();
  setInterval(how, pause);
  document.addEventListener("fs-refreshed", how);
}
