// Runs in the sandbox of a solution: loads it, and calls its functions on request.
"use strict";
const { pack, unpack, send, receive, modules } = require(__dirname + "/plain.js");
const fs = require("fs");
const vm = require("vm");

function describe(error) {
  let name = "Error", text = "";
  try {
    name = String((error && error.name) || typeof error).slice(0, 100);
    text = String((error && error.message) || error).slice(0, 1500);
  } catch (_) { /* a message that cannot be read */ }
  return [name, text];
}

const source = fs.readFileSync(__dirname + "/solution.txt", "utf8");
const names = JSON.parse(fs.readFileSync(__dirname + "/names.txt", "utf8"));
const quiet = new Proxy({}, { get: () => () => undefined });
let script = null, functions = null;
try {
  // In a function of its own: constants of the program are no names of ours.
  const found = names.map((name) => `${JSON.stringify(name)}: typeof ${name} === "undefined" ? undefined : ${name}`);
  script = new vm.Script(`(function (require, console, module, exports) {${source}\nreturn {${found.join(", ")}};\n})`, {
    filename: "solution.js",
  });
} catch (error) {
  send({ syntax: describe(error) });
  process.exit(0);
}
process.stdout.write = process.stderr.write = () => true;
try {
  const module = { exports: {} };
  functions = script.runInThisContext()(modules(require), quiet, module, module.exports);
} catch (error) {
  send({ raised: describe(error) });
  process.exit(0);
}
send({ ready: true });
for (let call = receive(); call !== null; call = receive()) {
  const given = call.args.map(unpack);
  let answer;
  try {
    answer = { value: pack(functions[call.call](...given)), args: given.map((item) => pack(item)) };
  } catch (error) {
    answer = { raised: describe(error) };
  }
  send(answer);
}
