// Asks the real yaml-language-server about a YAML file, as an editor does: node ask_server.cjs FILE REQUESTS
//
// REQUESTS is a JSON list of [method, line, character], such as ["textDocument/hover", 0, 3]. It prints a JSON object
// with the answers in that order, and the diagnostics of the file.

const { spawn } = require("node:child_process");
const { readFileSync } = require("node:fs");
const { pathToFileURL } = require("node:url");
const { createMessageConnection, StreamMessageReader, StreamMessageWriter } = require("vscode-jsonrpc/node");

const [file, requests] = process.argv.slice(2);
const uri = pathToFileURL(file).href;
const server = spawn(process.execPath, [require.resolve("yaml-language-server/bin/yaml-language-server"), "--stdio"], {
  stdio: ["pipe", "pipe", "inherit"],
});
const connection = createMessageConnection(
  new StreamMessageReader(server.stdout),
  new StreamMessageWriter(server.stdin),
);
const diagnostics = new Promise((resolve) =>
  connection.onNotification("textDocument/publishDiagnostics", (sent) => resolve(sent.diagnostics)),
);
// These are the settings of an editor in which nothing was set.
connection.onRequest("workspace/configuration", ({ items }) => items.map(() => ({})));
connection.onRequest("client/registerCapability", () => null);
connection.listen();

async function ask() {
  const capabilities = { textDocument: { hover: { contentFormat: ["markdown"] } }, workspace: { configuration: true } };
  await connection.sendRequest("initialize", { processId: process.pid, rootUri: null, capabilities });
  connection.sendNotification("initialized", {});
  const textDocument = { uri, languageId: "yaml", version: 1, text: readFileSync(file, "utf8") };
  connection.sendNotification("textDocument/didOpen", { textDocument });
  const answers = [];
  for (const [method, line, character] of JSON.parse(requests)) {
    answers.push(await connection.sendRequest(method, { textDocument: { uri }, position: { line, character } }));
  }
  console.log(JSON.stringify({ answers, diagnostics: await diagnostics }));
  connection.end();
  server.kill();
}

ask();
