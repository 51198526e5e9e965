// Plain values as text and back: what passes between a solution and its test.
"use strict";

exports.pack = function pack(value, depth = 0) {
  if (depth > 60) return ["x", "nested too deeply"];
  switch (typeof value) {
    case "undefined": return ["u"];
    case "boolean": return ["b", value];
    case "number": return ["f", Object.is(value, -0) ? "-0" : String(value)];
    case "bigint": return ["i", String(value)];
    case "string": return ["s", value];
    case "object": break;
    default: return ["x", typeof value];
  }
  if (value === null) return ["n"];
  if (Array.isArray(value)) {
    const items = [];
    for (let place = 0; place < value.length; place++) items.push(pack(value[place], depth + 1));
    return ["l", items];
  }
  if (value instanceof Set) return ["S", [...value].map((item) => pack(item, depth + 1))];
  if (value instanceof Map) return ["M", [...value].map(([key, item]) => [pack(key, depth + 1), pack(item, depth + 1)])];
  const kind = Object.getPrototypeOf(value);
  if (kind === null || kind === Object.prototype || Object.getPrototypeOf(kind) === null)
    return ["d", Object.keys(value).map((key) => [key, pack(value[key], depth + 1)])];
  return ["x", "object"];
};

exports.unpack = function unpack([tag, rest]) {
  switch (tag) {
    case "u": return undefined;
    case "n": return null;
    case "b": return Boolean(rest);
    case "f": return Number(rest);
    case "i": return BigInt(rest);
    case "s": return String(rest);
    case "l": return rest.map(unpack);
    case "S": return new Set(rest.map(unpack));
    case "M": return new Map(rest.map(([key, item]) => [unpack(key), unpack(item)]));
    case "d": return Object.fromEntries(rest.map(([key, item]) => [String(key), unpack(item)]));
    default: return Symbol(String(rest)); // equals nothing
  }
};

// Lines to and from the harness, over descriptors that nothing else writes to.
const fs = require("fs");
let buffered = Buffer.alloc(0);

exports.send = function (message) {
  let data = Buffer.from(JSON.stringify(message) + "\n");
  while (data.length) {
    try {
      data = data.subarray(fs.writeSync(1, data));
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
};

exports.receive = function () {
  for (;;) {
    const end = buffered.indexOf(10);
    if (end >= 0) {
      const line = buffered.subarray(0, end).toString();
      buffered = buffered.subarray(end + 1);
      return JSON.parse(line);
    }
    const block = Buffer.alloc(1 << 16);
    let size = 0;
    try {
      size = fs.readSync(0, block, 0, block.length);
    } catch (error) {
      if (error.code === "EAGAIN") continue;
      if (error.code !== "EOF") throw error;
    }
    if (!size) return null;
    buffered = Buffer.concat([buffered, block.subarray(0, size)]);
  }
};

// What programs of the benchmark require: js-md5 is a function from text to its digest in hex.
exports.modules = function (original) {
  return function (name) {
    if (name === "js-md5") return (text) => original("crypto").createHash("md5").update(String(text)).digest("hex");
    return original(name);
  };
};
