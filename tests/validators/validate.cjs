// Validates YAML files by a JSON Schema: node validate.cjs SCHEMA FILE... Prints one line for each file that is wrong.

const { readFileSync } = require("node:fs");
const Ajv = require("ajv/dist/2020").default;
const formats = require("ajv-formats").default;
const { parse } = require("yaml");

const [schema, ...files] = process.argv.slice(2);
const ajv = new Ajv({ strict: true, allErrors: true });
formats(ajv);
const validate = ajv.compile(JSON.parse(readFileSync(schema, "utf8")));
for (const file of files) {
  if (!validate(parse(readFileSync(file, "utf8")))) {
    console.log(`${file}: ${ajv.errorsText(validate.errors)}`);
  }
}
