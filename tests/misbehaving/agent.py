"""An agent that speaks the Agent Client Protocol and misbehaves in the way that is its argument.

What the ways have in common: `work()` writes and commits a file, `done()` reports.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request

WAY = sys.argv[1]
SESSION = "s-1"
tools = None
next_id = 100


def raw(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(**message):
    raw((json.dumps(dict(message, jsonrpc="2.0")) + "\n").encode())


def read():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


def update(**what):
    say(method="session/update", params={"sessionId": SESSION, "update": what})


def text(words):
    update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": words})


def ask(method, **params):
    """A request of ours; other messages meanwhile are dropped."""
    global next_id
    next_id += 1
    say(id=next_id, method=method, params=params)
    while True:
        message = read()
        if message.get("id") == next_id and "method" not in message:
            return message
        if message.get("method") == "session/cancel":
            return {"cancelled": True}


def permission(command, kind="execute", **raw_input):
    call = {"toolCallId": "t-%d" % next_id, "title": command, "kind": kind}
    call["rawInput"] = raw_input or {"command": command}
    options = [
        {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
        {"optionId": "ever", "name": "Always", "kind": "allow_always"},
        {"optionId": "no", "name": "No", "kind": "reject_once"},
    ]
    answer = ask("session/request_permission", sessionId=SESSION, toolCall=call, options=options)
    return answer.get("result", {}).get("outcome", {}).get("optionId")


def tool(name, **arguments):
    """Calls a tool of Musher's."""
    global next_id
    next_id += 1
    body = {"jsonrpc": "2.0", "id": next_id, "method": "tools/call"}
    body["params"] = {"name": name, "arguments": arguments}
    if "command" in tools:
        env = {e["name"]: e["value"] for e in tools["env"]}
        command = [tools["command"]] + tools["args"]
        line = json.dumps(body) + "\n"
        out = subprocess.run(command, env=env, input=line.encode(), stdout=subprocess.PIPE, check=True)
        return json.loads(out.stdout)["result"]
    headers = {h["name"]: h["value"] for h in tools["headers"]}
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(tools["url"], json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        return json.load(answer)["result"]


def sh(line):
    subprocess.run(["sh", "-c", line], check=True, stdin=subprocess.DEVNULL)


def work(name="work.txt"):
    sh("echo %s > %s-%s && git add -A && git commit -qm Work" % (WAY, WAY, name))


def done(**more):
    return tool("report_done", summary="It is done.", **more)


def end(id, **more):
    say(id=id, result=dict({"stopReason": "end_turn"}, **more))


def turn(id):
    if WAY == "is_silent":
        time.sleep(600)
    elif WAY == "floods":
        for n in range(20000):
            text("word %d " % n)
        work(), done(), end(id)
    elif WAY == "says_a_huge_line":
        text("x" * 3_000_000)
        work(), done(), end(id)
    elif WAY == "says_an_endless_line":
        raw(b'{"jsonrpc": "2.0", "method": "' + b"x" * (17 * 1024 * 1024) + b'"}\n')
        time.sleep(600)
    elif WAY == "says_garbage":
        raw(b"Traceback (most recent call last):\n")
        time.sleep(600)
    elif WAY == "says_bad_utf8":
        raw(b'{"jsonrpc":"2.0","method":"session/update","params":{"update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"\xff\xfe"}}}}\n')
        work(), done(), end(id)
    elif WAY == "exits_0":
        sys.exit(0)
    elif WAY == "exits_1":
        sys.stderr.write("something is wrong\n")
        sys.exit(1)
    elif WAY == "dies_in_a_line":
        raw(b'{"jsonrpc": "2.0", "meth')
        os._exit(9)
    elif WAY == "forks_daemons":
        line = "trap '' TERM HUP INT; exec sleep 600"
        for _ in range(5):
            subprocess.Popen(["setsid", "sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        work(), done(), end(id)
    elif WAY == "ignores_sigterm":
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        work(), done(), end(id)
        while sys.stdin.readline():
            pass
        time.sleep(600)
    elif WAY == "polls_mail":
        for _ in range(150):
            tool("mail_check")
        work(), done(), end(id)
    elif WAY == "reports_for_another_item":
        answer = done(item=1)
        with open("answer", "w") as out:
            json.dump(answer, out)
        work(), done(), end(id)
    elif WAY == "reports_twice":
        work(), done(), done(), end(id)
    elif WAY == "reports_without_work":
        done(), end(id)
    elif WAY == "never_reports":
        end(id)
    elif WAY == "breaks_the_gates":
        sh("touch broken && git add -A && git commit -qm Broken")
        done(), end(id)
    elif WAY == "is_over_budget":
        text("expensive")
        end(id, usage={"inputTokens": 5_000_000, "outputTokens": 1000})
    elif WAY == "claims_nonsense_usage":
        update(sessionUpdate="usage_update", used=-5, cost={"amount": "many", "currency": 7})
        work(), done(), end(id, usage={"inputTokens": -1, "outputTokens": "x"})
    elif WAY == "answers_twice":
        work(), done(), end(id), end(id), say(id=99999, result={})
    elif WAY == "says_unknown_things":
        update(sessionUpdate="from_the_future", x=[1])
        say(method="brand/new", params=None)
        say(oops=True)
        work(), done(), end(id)
    elif WAY == "wants_our_files":
        answer = ask("fs/read_text_file", sessionId=SESSION, path="/etc/shadow")
        assert "error" in answer, answer
        assert "error" in ask("terminal/create", sessionId=SESSION, command="sh")
        work(), done(), end(id)
    elif WAY == "fills_stderr":
        sys.stderr.write("noise " * 1_000_000)
        work(), done(), end(id)
    elif WAY == "edits_outside":
        assert permission("Write", kind="edit", file_path="/etc/musher-was-here") != "yes"
        work(), done(), end(id)
    elif WAY == "edits_gits_own":
        assert permission("Write", kind="edit", file_path=".git/hooks/post-commit") == "no"
        work(), done(), end(id)
    elif WAY == "asks_for_what_is_denied":
        for _ in range(3):
            assert permission("rm -rf /") == "no"
        work(), done(), end(id)
    elif WAY == "refuses":
        end(id, stopReason="refusal")
    elif WAY == "fails_for_ever":
        say(id=id, error={"code": -32603, "message": "boom"})
    elif WAY == "uses_a_dead_token":
        headers = [{"name": "Authorization", "value": "Bearer none"}]
        url = tools["url"]
        request = urllib.request.Request(url, b"{}", {h["name"]: h["value"] for h in headers})
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
            sys.exit(7)
        except urllib.error.HTTPError as error:
            assert error.code == 401
        work(), done(), end(id)
    elif WAY == "never_stops_asking":
        while permission("curl http://example.org/%d" % next_id) is not None:
            pass
        time.sleep(600)
    elif WAY == "takes_no_urls":
        assert "url" not in tools, tools
        work()
        answer = done()
        assert not answer["isError"], answer
        end(id)
    elif WAY == "behaves":
        work(), done(), end(id)
    else:
        raise SystemExit("no such way: " + WAY)


def main():
    global tools
    if WAY == "dies_at_start" and os.environ.get("MUSHER_ITEM"):
        sys.stderr.write("no licence\n")
        sys.exit(3)
    while True:
        message = read()
        method, id = message.get("method"), message.get("id")
        if method == "initialize":
            in_turn = os.environ.get("MUSHER_ITEM")
            version = 2 if WAY == "speaks_another_version" and in_turn else 1
            say(id=id, result={"protocolVersion": version, "agentInfo": {"name": "scripted", "version": "1.0.0"},
                "agentCapabilities": {"loadSession": True, "mcpCapabilities": {"http": WAY != "takes_no_urls"}, "sessionCapabilities": {"resume": {}}}})
        elif method in ("session/new", "session/resume", "session/load"):
            if WAY == "makes_no_session":
                say(id=id, error={"code": -32603, "message": "no room for you"})
                continue
            tools = message["params"]["mcpServers"][0]
            say(id=id, result={"sessionId": SESSION})
        elif method == "session/prompt":
            turn(id)
        elif method and id is not None:
            say(id=id, error={"code": -32601, "message": "no " + method})


main()
