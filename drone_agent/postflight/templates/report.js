// Filters of the gallery and the opening of the appendix for print; the page reads the same without them.
(function () {
  "use strict";
  var bar = document.querySelector(".filters");
  if (bar) {
    var strength = document.getElementById("filter-strength");
    var mark = document.getElementById("filter-mark");
    var count = document.getElementById("filter-count");
    var cards = Array.prototype.slice.call(document.querySelectorAll(".card"));
    var apply = function () {
      var shown = 0;
      cards.forEach(function (card) {
        var fits = Number(card.dataset.strength) >= Number(strength.value) && (!mark.value || card.dataset.mark === mark.value);
        card.hidden = !fits;
        shown += fits ? 1 : 0;
      });
      document.querySelectorAll(".finding").forEach(function (finding) {
        finding.hidden = !finding.querySelector(".card:not([hidden])");
      });
      count.textContent = shown === cards.length ? "" : shown + " of " + cards.length + " sightings shown";
    };
    strength.addEventListener("change", apply);
    mark.addEventListener("change", apply);
    bar.hidden = false;
  }
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
  });
})();
