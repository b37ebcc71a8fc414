// The page for participants: the code behind the # of its address completes the commands. Browsers
// keep that part of an address to themselves, so that no server has seen the code.

const code = /^#(fsj_[\w-]{8,80})$/.exec(location.hash)?.[1];
if (code) {
  for (const id of ["join-command", "join-python"]) {
    const block = document.getElementById(id);
    block.textContent = block.textContent.replace("CODE", code);
  }
  document.getElementById("without-code").hidden = true;
}
