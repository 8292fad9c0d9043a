//! OpenAI's Responses API, which Codex speaks: its conversation as messages, a reply as events.

use serde_json::{Value, json};

use super::Request;
use super::reply::{Block, Reply};

/// What is said in the person's name and is not theirs: Codex tells of its surroundings and of a
/// turn that was cut off, Musher why something was refused.
const NOT_A_PERSON: [&str; 3] = ["<environment_context>", "<turn_aborted>", "(Musher: "];

/// The `input` of a request as the messages of a chat, so that stories ask every wire the same.
pub(super) fn messages(input: &Value) -> Vec<Value> {
    let mut messages: Vec<Value> = vec![];
    for item in input.as_array().into_iter().flatten() {
        let content = &item["content"];
        let message = match item["type"].as_str().unwrap_or_default() {
            "message" if item["role"] == "assistant" => {
                json!({"role": "assistant", "content": content})
            }
            "message" => {
                let text = content[0]["text"].as_str().unwrap_or_default();
                let person = item["role"] == "user"
                    && !NOT_A_PERSON.iter().any(|known| text.starts_with(known));
                json!({"role": if person { "user" } else { "developer" }, "content": content})
            }
            "function_call" | "reasoning" => json!({"role": "assistant", "content": []}),
            "function_call_output" => {
                json!({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
            }
            _other => continue,
        };
        // One answer of the model is several items.
        let goes_on = message["role"] == "assistant"
            && messages.last().is_some_and(|last| last["role"] == "assistant");
        if goes_on {
            let added = message["content"].as_array().cloned().unwrap_or_default();
            let last = messages.last_mut().unwrap();
            last["content"].as_array_mut().unwrap().extend(added);
        } else {
            messages.push(message);
        }
    }
    messages
}

/// The events of a reply.
pub(super) fn events(request: &Request, reply: &Reply) -> Vec<String> {
    let id = format!("resp_{}", uuid::Uuid::new_v4().simple());
    let usage = reply.counted(request);
    let (input, output) = (usage.input.unwrap_or_default(), usage.output.unwrap_or_default());
    let mut events = vec![json!({"type": "response.created", "response": {"id": id}})];
    for (index, block) in reply.blocks.iter().enumerate() {
        let item = item(block);
        if let (Block::Text(text), Some(message)) = (block, item["id"].as_str()) {
            let mut started = item.clone();
            started["content"] = json!([]);
            events.push(json!({
                "type": "response.output_item.added", "output_index": index, "item": started,
            }));
            events.push(json!({
                "type": "response.output_text.delta", "item_id": message, "output_index": index,
                "content_index": 0, "delta": text,
            }));
        }
        events.push(json!({
            "type": "response.output_item.done", "output_index": index, "item": item,
        }));
    }
    events.push(json!({"type": "response.completed", "response": {"id": id, "usage": {
        "input_tokens": input + usage.cache_read,
        "input_tokens_details": {"cached_tokens": usage.cache_read},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + usage.cache_read + output,
    }}}));
    let name = |event: &Value| event["type"].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", name(event))).collect()
}

fn item(block: &Block) -> Value {
    let fresh = uuid::Uuid::new_v4().simple().to_string();
    match block {
        Block::Thinking(text) | Block::Text(text) => json!({
            "type": "message", "id": format!("msg_{fresh}"), "role": "assistant",
            "content": [{"type": "output_text", "text": text}],
        }),
        Block::Call { id, name, input } => json!({
            "type": "function_call", "id": format!("fc_{fresh}"), "call_id": id, "name": name,
            "arguments": input.to_string(),
        }),
    }
}
