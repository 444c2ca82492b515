// The theme's Font Awesome swaps <i> for <svg>, which breaks the Play widget; "nest" puts the <svg> inside the <i>.
(function () {
  var wish = { autoReplaceSvg: "nest" };
  if (window.FontAwesome && window.FontAwesome.config) Object.assign(window.FontAwesome.config, wish);
  else window.FontAwesomeConfig = Object.assign(window.FontAwesomeConfig || {}, wish);
})();
