"use strict";
// All pages: pictures open large; tables that are wider than the window say so.

const large = document.createElement("dialog");
large.className = "large";
large.setAttribute("aria-label", "Enlarged picture");
large.addEventListener("click", () => large.close());
document.body.append(large);

for (const picture of document.querySelectorAll(".row img")) {
  picture.tabIndex = 0;
  picture.role = "button";
  const open = () => {
    large.replaceChildren(picture.cloneNode());
    large.showModal();
  };
  picture.addEventListener("click", open);
  picture.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open();
    }
  });
}

const tell = () => {
  for (const box of document.querySelectorAll(".scroll")) {
    const rest = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more", rest > 1 && box.scrollLeft < rest - 1);
  }
};
for (const box of document.querySelectorAll(".scroll")) box.addEventListener("scroll", tell, { passive: true });
addEventListener("resize", tell);
tell();
