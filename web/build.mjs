// Copies what the server embeds out of node_modules into dist/, under the names
// that embed.go knows. The files stay byte for byte what npm delivered. Beside them
// comes the browser module, minified.
import { copyFile, mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const from = (path) => new URL(`node_modules/${path}`, import.meta.url);
const to = (name) => new URL(`dist/${name}`, import.meta.url);

const files = {
  "client.js": "@livetemplate/client/dist/livetemplate-client.browser.js",
  "client.LICENSE.txt": "@livetemplate/client/LICENSE",
  "pico.css": "@picocss/pico/css/pico.classless.min.css",
  "pico.LICENSE.txt": "@picocss/pico/LICENSE.md",
};

await mkdir(to(""), { recursive: true });
await Promise.all(Object.entries(files).map(([name, path]) => copyFile(from(path), to(name))));

await build({
  entryPoints: [fileURLToPath(new URL("presence/presence.js", import.meta.url))],
  outfile: fileURLToPath(to("presence.js")),
  minify: true,
  format: "esm",
  target: "es2022",
});
