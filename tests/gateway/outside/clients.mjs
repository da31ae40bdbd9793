// Agents as their libraries' pages write them, unmodified: two questions, a tool, its results.
// Run as `node clients.mjs CLIENT` with OPENAI_BASE_URL, OPENAI_API_KEY, and NODE_PACKAGES, the
// node_modules that scripts/outside-clients.sh makes. Knows nothing of gym-ray.
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_PACKAGES + "/");
const MODEL = "gpt-4o";
const SYSTEM = "You add.";
const QUESTIONS = ["What is 1 + 1, and 2 + 2?", "Are you sure?"];
const PARAMETERS = {
  type: "object",
  properties: { a: { type: "number" }, b: { type: "number" } },
  required: ["a", "b"],
};
const add = ({ a, b }) => String(a + b);

async function openaiTools(stream) {
  const { OpenAI } = require("openai");
  const client = new OpenAI();
  const tools = [
    {
      type: "function",
      function: { name: "add", parse: JSON.parse, function: add, parameters: PARAMETERS },
    },
  ];
  let messages = [{ role: "system", content: SYSTEM }];
  for (const content of QUESTIONS) {
    messages.push({ role: "user", content });
    const runner = client.chat.completions.runTools({ model: MODEL, messages, tools, stream });
    await runner.finalContent();
    messages = runner.messages.slice();
  }
}

async function openaiResponses() {
  const { OpenAI } = require("openai");
  const client = new OpenAI();
  const tools = [{ type: "function", name: "add", parameters: PARAMETERS, strict: false }];
  const input = [];
  for (const content of QUESTIONS) {
    input.push({ role: "user", content });
    for (;;) {
      const asked = { model: MODEL, instructions: SYSTEM, input, tools };
      const response = await client.responses.stream(asked).finalResponse();
      input.push(...response.output);
      const calls = response.output.filter((item) => item.type === "function_call");
      if (!calls.length) break;
      for (const { call_id, arguments: text } of calls)
        input.push({ type: "function_call_output", call_id, output: add(JSON.parse(text)) });
    }
  }
}

async function vercel(kind, { stream = false, options = {} } = {}) {
  const { generateText, streamText, tool, stepCountIs } = require("ai");
  const { createOpenAI } = require("@ai-sdk/openai");
  const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
  const { z } = require("zod");
  const where = { baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY };
  const model =
    kind === "compatible"
      ? createOpenAICompatible({ name: "session", ...where })(MODEL)
      : createOpenAI(where)[kind](MODEL);
  const inputSchema = z.object({ a: z.number(), b: z.number() });
  const tools = { add: tool({ description: "Sum.", inputSchema, execute: add }) };
  let messages = [];
  for (const content of QUESTIONS) {
    messages.push({ role: "user", content });
    const asked = { model, system: SYSTEM, messages, tools, stopWhen: stepCountIs(9), ...options };
    const result = stream ? streamText(asked) : await generateText(asked);
    if (stream) await result.consumeStream();
    messages.push(...(await result.response).messages);
  }
}

const unstored = { options: { providerOptions: { openai: { store: false } } } };
const clients = {
  "node-openai-tools": () => openaiTools(false),
  "node-openai-tools-streamed": () => openaiTools(true),
  "node-openai-responses-streamed": () => openaiResponses(),
  "vercel-chat": () => vercel("chat"),
  "vercel-chat-streamed": () => vercel("chat", { stream: true }),
  "vercel-responses": () => vercel("responses"),
  "vercel-responses-streamed": () => vercel("responses", { stream: true }),
  "vercel-responses-unstored": () => vercel("responses", unstored),
  "vercel-compatible": () => vercel("compatible"),
  "vercel-compatible-streamed": () => vercel("compatible", { stream: true }),
};
await clients[process.argv[2]]();
