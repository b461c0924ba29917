"use strict";

// The token goes to the server once, in a body, for a cookie that scripts cannot read. What stands behind the # of an
// address is sent to nobody, and leaves the address bar here.

const wrong = document.getElementById("wrong");

async function open(token) {
  const answer = await fetch("/login", { method: "POST", body: token });
  if (answer.ok) location.replace("/");
  else wrong.textContent = "This is not the token.";
}

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", "/");
  open(given);
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  open(document.getElementById("token").value.trim());
});
