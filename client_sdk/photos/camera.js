// The camera of the device: what it sees, and a button that keeps a moment of it.
import { h, say } from "../drawings/dom.js";

const WANTED = { video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 1280 } }, audio: false };
const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it beside the address, and try again.",
  NotFoundError: "No camera was found. Choose photos from files instead.",
  NotReadableError: "Another program uses the camera. Close it there, and try again.",
};

export class Camera {
  #take;
  #stream = null;
  #cameras = [];
  #which = 0;
  #video = h("video", { playsinline: true, muted: true, "aria-label": "What the camera sees" });
  #shutter = h("button", { type: "button", class: "lb-shutter", "aria-label": "Take a photo" });
  #other = h("button", { type: "button", class: "lb-button", "data-size": "small", hidden: true }, "Other camera");
  #close = h("button", { type: "button", class: "lb-button", "data-size": "small" }, "Close the camera");
  #told = h("p", { class: "lb-small lb-quiet", role: "status" });
  #flash = h("div", { class: "lb-flash", "aria-hidden": "true" });
  #closed;

  /** `take(blob)` gets each photo; `closed()` is told when the camera was put away. */
  constructor(take, closed) {
    this.#take = take;
    this.#closed = closed;
    this.#video.muted = true; // the attribute alone does not mute one that a script made
    this.element = h("div", { class: "lb-camera", hidden: true },
      h("div", { class: "lb-viewfinder" }, this.#video, this.#flash),
      h("div", { class: "lb-camera-row" }, this.#close, this.#shutter, this.#other), this.#told);
    this.#shutter.addEventListener("click", () => this.#shoot());
    this.#close.addEventListener("click", () => this.close());
    this.#other.addEventListener("click", () => this.#next());
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  get open() {
    return !this.element.hidden;
  }

  async start() {
    this.element.hidden = false;
    say(this.#told, "Opening the camera …");
    this.#shutter.disabled = true;
    try {
      await this.#point(WANTED);
      this.#cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
      this.#other.hidden = this.#cameras.length < 2;
      this.#shutter.focus();
    } catch (error) {
      const reason = navigator.mediaDevices ? REASONS[error.name] : "This page was not opened in a way that lets it use a camera. Choose photos from files instead.";
      say(this.#told, reason ?? `The camera cannot be used: ${error.message}`);
    }
  }

  close() {
    if (!this.open) return;
    this.#stop();
    this.element.hidden = true;
    this.#closed();
  }

  async #point(wanted) {
    this.#stop();
    const stream = await navigator.mediaDevices.getUserMedia(wanted);
    if (!this.open) { // it was closed while the person was asked
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#stream = stream;
    this.#video.srcObject = stream;
    await this.#video.play();
    this.#shutter.disabled = false;
    say(this.#told, "Let what the photo shows fill the frame.");
  }

  async #next() {
    this.#which = (this.#which + 1) % this.#cameras.length;
    try {
      await this.#point({ video: { deviceId: { exact: this.#cameras[this.#which].deviceId } }, audio: false });
    } catch (error) {
      say(this.#told, REASONS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
  }

  async #shoot() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (!width) return;
    const canvas = h("canvas", { width, height });
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    this.#flash.classList.remove("lb-flashed");
    void this.#flash.offsetWidth; // so that it begins again
    this.#flash.classList.add("lb-flashed");
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    if (blob) this.#take(blob);
  }

  #stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }
}
