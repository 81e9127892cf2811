/* Load MathJax, 2.3 MB, where there is a formula. Sphinx asks for it on the front page, too, since
   pages below that one have formulas. */
if (document.querySelector(".math")) {
  const src = new URL("vendor/tex-svg-full.js", document.currentScript.src).href;
  document.head.append(Object.assign(document.createElement("script"), { src }));
}
