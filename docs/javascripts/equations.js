// Equations, by KaTeX from this site: nothing is fetched from elsewhere.
for (const element of document.querySelectorAll(".arithmatex")) {
  const text = element.textContent.trim();
  katex.render(text.slice(2, -2), element, {displayMode: text.startsWith("\\["), throwOnError: false});
}
