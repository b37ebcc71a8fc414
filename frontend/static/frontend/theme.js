// Before the first paint: the theme that was chosen here or in the admin, which share one memory.
{
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
