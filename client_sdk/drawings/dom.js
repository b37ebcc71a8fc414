// Making and changing elements, with nothing between us and the DOM.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("td", { class: "number" }, "12")`; an attribute that is null or false is left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set attributes, those that differ; null or false takes one away. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      if (element.hasAttribute(name)) element.removeAttribute(name);
    } else {
      const text = value === true ? "" : String(value);
      if (element.getAttribute(name) !== text) element.setAttribute(name, text);
    }
  }
}

const said = Symbol("said"); // remembered: to read it back from the DOM takes longer than to write it

/** Set an element's text if it is another one; nobody else may set it. */
export function say(element, text) {
  if (element[said] === text) return;
  element[said] = text;
  element.textContent = text;
}

/** Put exactly these nodes into a parent in this order, and move none that stands right. */
export function place(parent, nodes) {
  let here = parent.firstChild;
  for (const node of nodes) {
    if (node === here) here = here.nextSibling;
    else parent.insertBefore(node, here);
  }
  while (here) {
    const following = here.nextSibling;
    here.remove();
    here = following;
  }
}
