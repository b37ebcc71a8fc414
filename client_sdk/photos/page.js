// The page's model: what anywidget gives a widget in a notebook, over a socket to this machine.
//
// A message is one frame: the length of a header in four bytes, the header, and its buffers.
import { Model } from "../drawings/model.js";
import labeller from "./labeller.js";

// The program whose page this is. Who listens at its port when it has ended may be somebody else, who
// must not be sent a photo: nothing is said before the socket has told the same.
const PROGRAM = document.querySelector("meta[name=program]").content;
const GONE = "The program on this machine does not answer. Start it again: fedclient photos";

class Socket extends Model {
  #socket = null;
  #tries = 0;
  #early = []; // what was said before we knew whom to
  #known = false; // that it is our program

  connect() {
    const socket = (this.#socket = new WebSocket(`ws://${location.host}/live`));
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => this.#heard(data));
    socket.addEventListener("close", () => {
      this.#early = [];
      this.#known = false;
      this.set("connected", false);
      this.tell("lost");
      setTimeout(() => this.connect(), Math.min(10000, 500 * 2 ** this.#tries++));
    });
  }

  send(content, _, buffers = []) {
    const { readyState } = this.#socket;
    if (readyState > WebSocket.OPEN) throw new Error(GONE);
    const header = new TextEncoder().encode(JSON.stringify({ content, lengths: buffers.map((one) => one.byteLength) }));
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, header.length, true);
    const frame = new Blob([length, header, ...buffers]);
    if (this.#known) this.#socket.send(frame);
    else this.#early.push(frame);
  }

  #begin() {
    this.#known = true;
    this.#tries = 0;
    this.set("connected", true);
    for (const frame of this.#early.splice(0)) this.#socket.send(frame);
  }

  #heard(frame) {
    const length = new DataView(frame).getUint32(0, true);
    const { state, content, lengths, program } = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, length)));
    if (!this.#known && program !== PROGRAM) return this.#socket.close();
    if (!this.#known) this.#begin();
    let start = 4 + length;
    const buffers = lengths.map((size) => new DataView(frame, (start += size) - size, size));
    if (state) this.set("state", state);
    else this.tell("msg:custom", content, buffers);
  }
}

const model = new Socket({ alone: true });
const gone = document.querySelector("#gone");
model.on("change:connected", () => {
  gone.textContent = GONE;
  gone.hidden = model.get("connected");
});
labeller.render({ model, el: document.querySelector("#labeller") });
model.connect();
