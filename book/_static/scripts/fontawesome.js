/* In place of the theme's script of the same name, 1.5 MB, which draws as SVG the icons that the
   theme's icon font shows anyway. One thing is left to do: a glyph is nothing to read aloud. */
for (const icon of document.querySelectorAll(":is(i, span)[class*='fa-']")) {
  icon.ariaHidden = "true";
}
