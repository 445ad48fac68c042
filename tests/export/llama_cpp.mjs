// Logits and tokens as llama.cpp has them, by the npm package node-llama-cpp with its prebuilt library.
// Arguments: the folder that holds node_modules, a JSON file with jobs, [{model, lora (or null), text, tokens: [...]}],
// and the file to write: [{tokens: of the text, logits: [[...] for each token]}].
import {readFileSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [folder, file, answer] = process.argv.slice(2);
const entry = createRequire(`${folder}/package.json`).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(entry));
const llama = await getLlama({build: "never", gpu: false, logLevel: "error", progressLogs: false});
const answers = [];
for (const job of JSON.parse(readFileSync(file, "utf8"))) {
    const model = await llama.loadModel({modelPath: job.model});
    const lora = job.lora == null ? undefined : {adapters: [{filePath: job.lora, scale: 1}]};
    const context = await model.createContext({contextSize: 64, flashAttention: false, lora});
    const input = job.tokens.map((token) => [token, {generateNext: {logits: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}}}]);
    const found = await context.getSequence().controlledEvaluate(input);
    const logits = found.map(({next}) => {
        const row = [];
        for (const [token, value] of next.logits) row[token] = value;
        return row;
    });
    answers.push({tokens: job.text == null ? [] : model.tokenize(job.text), logits});
    await context.dispose();
    await model.dispose();
}
writeFileSync(answer, JSON.stringify(answers));
process.exit(0);
