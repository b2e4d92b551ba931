// Reads JUnit XML with the parser junit2json, and prints it as JSON: node junit.cjs FILE

const { readFileSync } = require("node:fs");
const { parse } = require("junit2json");

parse(readFileSync(process.argv[2], "utf8")).then((found) => console.log(JSON.stringify(found)));
