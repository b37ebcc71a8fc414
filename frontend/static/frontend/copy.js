// <button data-copy="ID"> puts the text of that element into the clipboard.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const text = source.value ?? source.textContent;
  const label = (button.dataset.label ??= button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source); // no clipboard here: it is marked, to be copied by hand
    button.textContent = "Press Ctrl-C";
  }
  setTimeout(() => (button.textContent = label), 2000);
});
