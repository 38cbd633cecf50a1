/**
 * The three chat APIs that coding CLIs speak, as far as a scripted answer needs them: OpenAI's Chat Completions and
 * Responses, Anthropic's Messages. Pure functions, from a request's body to the answer's.
 */
import { randomUUID } from "node:crypto";

export type Api = "chat" | "responses" | "messages";

/** What the model says. */
export interface Script {
  /** So many times it answers with a call of `tool`, then with `text`: none unless told. */
  readonly toolCalls?: number;
  /** A tool that the client offers: a shell that waits for a second, as Copilot CLI has it, unless told. */
  readonly tool?: { readonly name: string; readonly arguments: Readonly<Record<string, unknown>> };
  readonly text?: string;
}

interface ToolCall {
  readonly id: string;
  readonly name: string;
  readonly input: Readonly<Record<string, unknown>>;
}

type Turn = { readonly text: string } | { readonly call: ToolCall };

type Json = Record<string, unknown>;

/** An answer in both forms: `events` is the stream's whole text (WHATWG HTML, server-sent events). */
interface Answer {
  readonly json: Json;
  readonly events: string;
}

const WAIT = { name: "bash", arguments: { command: "sleep 1", description: "wait" } };

export const MODELS = {
  object: "list",
  data: [{ id: "gpt-5.1", object: "model", created: 0, owned_by: "freshkey-demo" }],
};

/** Which API a path belongs to: OpenAI's and Anthropic's own paths, and Azure's forms of OpenAI's. */
export function apiOf(path: string): Api | "models" | undefined {
  const match = /^\/(?:openai\/)?v1\/(models|chat\/completions|responses|messages)$/.exec(path);
  if (match?.[1] === "chat/completions" || /^\/openai\/deployments\/[^/]+\/chat\/completions$/.test(path)) {
    return "chat";
  }
  return match?.[1] as Exclude<Api, "chat"> | "models" | undefined;
}

/** The script's next answer to a request. */
export function answer(api: Api, request: Json, script: Script): Answer {
  const turn = nextTurn(api, request, script);
  const model = typeof request.model === "string" ? request.model : MODELS.data[0]!.id;
  return { chat, responses, messages }[api](turn, model, request);
}

/**
 * Where in the script a conversation is, from nothing but the request itself, which holds all of it: so any number of
 * sessions and sub-agents may go on at once. A request that doesn't offer the tool (for a title, say) gets the text.
 */
function nextTurn(api: Api, request: Json, script: Script): Turn {
  const { toolCalls = 0, tool = WAIT, text = "All done." } = script;
  const done = toolResults(api, request);
  if (done >= toolCalls || !offers(request, tool.name)) return { text };
  return { call: { id: `call_${done + 1}_${randomUUID().slice(0, 8)}`, name: tool.name, input: tool.arguments } };
}

function toolResults(api: Api, request: Json): number {
  if (api === "chat") return objects(request.messages).filter(({ role }) => role === "tool").length;
  if (api === "responses") return objects(request.input).filter(({ type }) => type === "function_call_output").length;
  const blocks = objects(request.messages).flatMap(({ content }) => objects(content));
  return blocks.filter(({ type }) => type === "tool_result").length;
}

function offers(request: Json, name: string): boolean {
  return objects(request.tools).some(
    (tool) => tool.name === name || (tool.function as Json | undefined)?.name === name,
  );
}

function objects(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "object" && item !== null) : [];
}

function identifier(prefix: string): string {
  return `${prefix}_${randomUUID().replaceAll("-", "")}`;
}

/** OpenAI's Chat Completions API. */
function chat(turn: Turn, model: string, request: Json): Answer {
  const head = { id: identifier("chatcmpl"), created: Math.floor(Date.now() / 1000), model };
  const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 };
  const finish_reason = "call" in turn ? "tool_calls" : "stop";
  const calls = "call" in turn ? [{ id: turn.call.id, type: "function", function: functionOf(turn.call) }] : undefined;
  const message = {
    role: "assistant",
    content: "text" in turn ? turn.text : null,
    ...(calls && { tool_calls: calls }),
  };
  const delta = { ...message, ...(calls && { tool_calls: calls.map((call, index) => ({ index, ...call })) }) };
  const chunk = (choices: Json[], rest: Json = {}) => ({ ...head, object: "chat.completion.chunk", choices, ...rest });
  const wantsUsage = (request.stream_options as Json | undefined)?.include_usage === true;
  return {
    json: { ...head, object: "chat.completion", choices: [{ index: 0, message, finish_reason }], usage },
    events: stream([
      chunk([{ index: 0, delta, finish_reason: null }]),
      chunk([{ index: 0, delta: {}, finish_reason }]),
      ...(wantsUsage ? [chunk([], { usage })] : []),
      "[DONE]",
    ]),
  };
}

/** OpenAI's Responses API. */
function responses(turn: Turn, model: string): Answer {
  const head = { id: identifier("resp"), object: "response", created_at: Math.floor(Date.now() / 1000), model };
  const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 };
  const events: Json[] = [];
  const push = (type: string, rest: Json) => events.push({ type, sequence_number: events.length, ...rest });
  const opening = { ...head, status: "in_progress", output: [] };
  push("response.created", { response: opening });
  push("response.in_progress", { response: opening });

  let item: Json;
  if ("call" in turn) {
    const { name, arguments: text } = functionOf(turn.call);
    const started = { id: identifier("fc"), type: "function_call", call_id: turn.call.id, name };
    const where = { item_id: started.id, output_index: 0 };
    item = { ...started, status: "completed", arguments: text };
    push("response.output_item.added", { output_index: 0, item: { ...started, status: "in_progress", arguments: "" } });
    push("response.function_call_arguments.delta", { ...where, delta: text });
    push("response.function_call_arguments.done", { ...where, name, arguments: text });
  } else {
    const started = { id: identifier("msg"), type: "message", role: "assistant" };
    const where = { item_id: started.id, output_index: 0, content_index: 0 };
    const part = { type: "output_text", text: turn.text, annotations: [] };
    item = { ...started, status: "completed", content: [part] };
    push("response.output_item.added", { output_index: 0, item: { ...started, status: "in_progress", content: [] } });
    push("response.content_part.added", { ...where, part: { ...part, text: "" } });
    push("response.output_text.delta", { ...where, delta: turn.text });
    push("response.output_text.done", { ...where, text: turn.text });
    push("response.content_part.done", { ...where, part });
  }
  const json = { ...head, status: "completed", output: [item], usage };
  push("response.output_item.done", { output_index: 0, item });
  push("response.completed", { response: json });
  return { json, events: stream(events) };
}

/** Anthropic's Messages API. */
function messages(turn: Turn, model: string): Answer {
  const head = { id: identifier("msg"), type: "message", role: "assistant", model };
  const usage = { input_tokens: 1, output_tokens: 1 };
  const stop = { stop_reason: "call" in turn ? "tool_use" : "end_turn", stop_sequence: null };
  const block =
    "call" in turn
      ? { type: "tool_use", id: turn.call.id, name: turn.call.name, input: turn.call.input }
      : { type: "text", text: turn.text };
  const empty = "call" in turn ? { ...block, input: {} } : { ...block, text: "" };
  const delta =
    "call" in turn
      ? { type: "input_json_delta", partial_json: JSON.stringify(turn.call.input) }
      : { type: "text_delta", text: turn.text };
  return {
    json: { ...head, content: [block], ...stop, usage },
    events: stream([
      { type: "message_start", message: { ...head, content: [], stop_reason: null, stop_sequence: null, usage } },
      { type: "content_block_start", index: 0, content_block: empty },
      { type: "content_block_delta", index: 0, delta },
      { type: "content_block_stop", index: 0 },
      { type: "message_delta", delta: stop, usage },
      { type: "message_stop" },
    ]),
  };
}

function functionOf({ name, input }: ToolCall) {
  return { name, arguments: JSON.stringify(input) };
}

/** Server-sent events; one that has a type is named by it. */
function stream(events: (Json | string)[]): string {
  return events
    .map((event) => {
      if (typeof event === "string") return `data: ${event}\n\n`;
      return `${typeof event.type === "string" ? `event: ${event.type}\n` : ""}data: ${JSON.stringify(event)}\n\n`;
    })
    .join("");
}
