// A link with `data-dialog` leads to a form. Here the form opens in a dialog of this page; without
// this script the link leads to it.

function open(form, opener) {
  const dialog = document.createElement("dialog");
  const heading = document.createElement("h2");
  heading.id = "dialog-heading";
  heading.textContent = form.dataset.label;
  dialog.setAttribute("aria-labelledby", heading.id);
  const stack = document.createElement("div");
  stack.className = "stack";
  stack.append(heading, form);
  dialog.append(stack);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    // A live refresh may have put a new link in the old one's place.
    const again = document.querySelector(`a[href="${CSS.escape(opener.getAttribute("href"))}"]`);
    (opener.isConnected ? opener : again)?.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
}

async function ask(link) {
  const answer = await fetch(link.href, { headers: { "Fedserver-Dialog": "1" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const form = page.querySelector("form[data-label]");
  if (answer.ok && !answer.redirected && form) open(document.adoptNode(form), link);
  else location.assign(link.href);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  ask(link).catch(() => location.assign(link.href));
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post" || event.defaultPrevented) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
