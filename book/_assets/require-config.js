// RequireJS finds what a widget asks for (anywidget.js, the icon fonts) in the vendored folder beside this file.
(function () {
  var here = document.currentScript.src.replace(/[^/]*$/, "");
  window.requirejs.config({ baseUrl: here + "vendor/" });
})();
