// Redoc shows its maker's mark from its maker's server. Our pages ask nobody else for anything: the
// picture is told that it has failed, and goes.
{
  const image = HTMLImageElement.prototype;
  const { set: setSource, ...source } = Object.getOwnPropertyDescriptor(image, "src");
  const setAttribute = image.setAttribute;

  function refused(picture, address) {
    const { protocol, origin } = new URL(address, document.baseURI);
    const foreign = protocol !== "data:" && origin !== location.origin;
    if (foreign) queueMicrotask(() => picture.dispatchEvent(new Event("error")));
    return foreign;
  }

  Object.defineProperty(image, "src", {
    ...source,
    set(address) {
      if (!refused(this, String(address))) setSource.call(this, address);
    },
  });
  image.setAttribute = function (name, value) {
    if (name !== "src" || !refused(this, String(value))) setAttribute.call(this, name, value);
  };
}
