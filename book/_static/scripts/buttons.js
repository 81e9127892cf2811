/* What the theme's buttons do when pressed. The theme says so in attributes, which the policy of
   the pages does not allow; book/_ext/security.py takes those out. */
for (const button of document.querySelectorAll(".btn-fullscreen-button")) {
  button.addEventListener("click", () => window.toggleFullScreen());
}
for (const button of document.querySelectorAll(".btn-download-pdf-button")) {
  button.addEventListener("click", () => window.print());
}
