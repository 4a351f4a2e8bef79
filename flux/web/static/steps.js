// Stepping along a line of stops. Steps replace each other in the browser's history: "back" leaves the row or the
// execution, and does not walk through it again.
import { keys } from "./frame.js";

function step(selector) {
  const link = document.querySelector(selector);
  if (link) { location.replace(link.href); }
}

if (document.querySelector(".scrubber")) {
  keys.ArrowLeft = () => step(".steps [rel=prev]");
  keys.ArrowRight = () => step(".steps [rel=next]");
  keys.m = () => step("#mark-stop");
  const here = document.querySelector(".scrubber [aria-current]");
  here?.scrollIntoView({ block: "nearest", inline: "center" });
}
