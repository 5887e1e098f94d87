// What a host makes of an unpacked bundle and of what its user gave: node mcpb_host.mjs MCPB_CLI FOLDER GIVEN
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, sep } from "node:path";
import { pathToFileURL } from "node:url";

const [cli, extensionPath, given] = process.argv.slice(2);
const { getMcpConfigForManifest } = await import(pathToFileURL(join(cli, "..", "..", "index.js")));
const manifest = JSON.parse(readFileSync(join(extensionPath, "manifest.json"), "utf8"));
const config = await getMcpConfigForManifest({
  manifest,
  extensionPath,
  systemDirs: { HOME: homedir() },
  userConfig: JSON.parse(given),
  pathSeparator: sep,
});
console.log(JSON.stringify(config));
