// Says what is wrong with the documents of the API by the schemas of OpenAPI 3.1 and
// AsyncAPI 3.0, as those who write the specifications publish them.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { Validator } from "@seriousme/openapi-schema-validator";
import Ajv from "ajv";

const read = async (name) => JSON.parse(await readFile(new URL(`../api/${name}`, import.meta.url), "utf8"));

const openapi = new Validator();
const { valid, errors } = await openapi.validate(await read("openapi.json"));
if (!valid || openapi.version !== "3.1") {
  console.error("openapi.json", openapi.version, errors);
  process.exitCode = 1;
}

const schema = createRequire(import.meta.url)("@asyncapi/specs/schemas/3.0.0.json");
const asyncapi = new Ajv({ meta: false, strict: false, validateFormats: false }).compile(schema);
if (!asyncapi(await read("asyncapi.json"))) {
  console.error("asyncapi.json", asyncapi.errors);
  process.exitCode = 1;
}
