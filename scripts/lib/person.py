#!/usr/bin/env python3
"""The person of the demo: a Matrix client in the terminal, on an SDK that is not Musher's.

Shows an encrypted room live and sends what is typed. Used by scripts/demo; also handy beside any
Musher. With --ask it says one thing by itself; with --until-file it ends when that file appears.
"""

import argparse
import asyncio
import os
import re
import sys
import textwrap
import time

from nio import (
    AsyncClient,
    AsyncClientConfig,
    LocalProtocolError,
    MegolmEvent,
    ReactionEvent,
    RoomMessageFormatted,
    RoomMessageMedia,
)

DIM, BOLD, CYAN, GREEN, RESET = "\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[0m"
WIDTH = 76


def paint(text, *codes):
    """Colours `text` when a person is looking."""
    return "".join(codes) + text + RESET if sys.stdout.isatty() else text


class Person:
    """One logged-in account and the room it looks at."""

    def __init__(self, args):
        self.args = args
        os.makedirs(args.store, mode=0o700, exist_ok=True)
        config = AsyncClientConfig(store_sync_tokens=False, encryption_enabled=True)
        self.client = AsyncClient(
            args.homeserver, args.user, store_path=args.store, config=config
        )
        self.room = args.room
        self.started = time.time() * 1000
        self.shown = {}

    async def login(self):
        """Logs in, and makes the encrypted room with the bot in it when none was given."""
        answer = await self.client.login(self.args.password, device_name="demo person")
        if not hasattr(answer, "access_token"):
            sys.exit(f"cannot log in as {self.args.user}: {answer}")
        await self.client.sync(timeout=0, full_state=True)
        await self.keys()
        if self.room is None:
            made = await self.client.room_create(
                name=self.args.name,
                is_direct=True,
                invite=[self.args.bot],
                initial_state=[
                    {
                        "type": "m.room.encryption",
                        "state_key": "",
                        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
                    }
                ],
            )
            if not hasattr(made, "room_id"):
                sys.exit(f"cannot make a room: {made}")
            self.room = made.room_id
        if self.args.room_file:
            with open(self.args.room_file, "w", encoding="utf-8") as out:
                out.write(self.room)

    async def keys(self):
        """Does what nio's sync leaves undone: uploads, queries and claims keys."""
        client = self.client
        try:
            if client.should_upload_keys:
                await client.keys_upload()
            if client.should_query_keys:
                await client.keys_query()
            if client.should_claim_keys:
                await client.keys_claim(client.get_users_for_key_claiming())
            await client.send_to_device_messages()
        except LocalProtocolError:
            pass  # nothing to do for now

    async def say(self, text):
        """Sends one message."""
        await self.client.room_send(
            self.room,
            "m.room.message",
            {"msgtype": "m.text", "body": text},
            ignore_unverified_devices=True,
        )

    async def wait_for_bot(self):
        """Waits until the bot has come and its device is known: only then can it read."""
        while True:
            await self.client.sync(timeout=1000)
            await self.keys()
            room = self.client.rooms.get(self.room)
            # An invited user counts as one of the room's; what is said before it has come in is
            # history to it.
            if not room or self.args.bot not in room.users or self.args.bot in room.invited_users:
                continue
            await self.client.joined_members(self.room)
            self.client.olm.users_for_key_query.add(self.args.bot)
            await self.keys()
            if self.client.device_store[self.args.bot]:
                return

    def show(self, room, event):
        """Prints an event of the room as a chat line."""
        if room.room_id != self.room or event.server_timestamp < self.started - 2000:
            return
        mine = event.sender == self.client.user_id
        name = "you" if mine else room.user_name(event.sender) or event.sender
        colour = GREEN if mine else CYAN
        clock = time.strftime("%H:%M:%S", time.localtime(event.server_timestamp / 1000))
        head = f"{paint(clock, DIM)} {paint(name, BOLD, colour)}"
        if isinstance(event, ReactionEvent):
            print(f"{head} reacts {event.key}")
            return
        if isinstance(event, MegolmEvent):
            print(f"{head} {paint('(cannot be decrypted)', DIM)}")
            return
        content = event.source.get("content", {})
        body = content.get("body", "")
        relation = content.get("m.relates_to") or {}
        if relation.get("rel_type") == "m.replace":
            body = (content.get("m.new_content") or {}).get("body", body)
            if self.shown.get(relation.get("event_id")) == body:
                return
            self.shown[relation.get("event_id")] = body
            head += paint(" (edited)", DIM)
        quiet = content.get("msgtype") == "m.notice"
        lock = "" if event.decrypted else paint(" (not encrypted)", DIM)
        print(f"{head}{lock}")
        for line in body.split("\n"):
            wrapped = textwrap.wrap(line, WIDTH - 2) or [""]
            if re.match(r"^\s*(```|\||    )", line):
                wrapped = [line]
            for piece in wrapped:
                print("  " + (paint(piece, DIM) if quiet else piece))
        sys.stdout.flush()

    async def listen(self):
        """Syncs for ever, printing what comes."""
        for kind in (RoomMessageFormatted, RoomMessageMedia, MegolmEvent, ReactionEvent):
            self.client.add_event_callback(self.show, kind)
        while True:
            await self.client.sync(timeout=10000)
            await self.keys()

    async def type(self):
        """Sends what is typed, line by line, until the input ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if text := line.decode(errors="replace").strip():
                await self.say(text)

    async def run(self):
        """Runs the whole visit, and leaves in order however it ends."""
        try:
            await self.visit()
        finally:
            await self.client.close()

    async def visit(self):
        """Logs in, waits for the bot, talks."""
        await self.login()
        await self.wait_for_bot()
        tasks = [asyncio.create_task(self.listen())]
        if self.args.ask:
            await self.say(self.args.ask)
        if self.args.until_file:
            tasks.append(asyncio.create_task(self.until_file()))
        if not self.args.no_input:
            tasks.append(asyncio.create_task(self.type()))
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        for task in done:
            task.result()

    async def until_file(self):
        """Ends a moment after the file appears, so that the last words are seen."""
        while not os.path.exists(self.args.until_file):
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.5)


def main():
    """Reads the options and runs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--homeserver", required=True)
    options.add_argument("--user", required=True, help="full id of the person")
    options.add_argument("--password", default=os.environ.get("MUSHER_DEMO_PASSWORD"))
    options.add_argument("--bot", required=True, help="full id of the bot")
    options.add_argument("--store", required=True, help="folder for the client's keys")
    options.add_argument("--room", help="room to look at; otherwise a new one is made")
    options.add_argument("--room-file", help="where to write the room's id")
    options.add_argument("--name", default="Musher demo", help="name of a new room")
    options.add_argument("--ask", help="said once the bot is there")
    options.add_argument("--until-file", help="end when this file appears")
    options.add_argument("--no-input", action="store_true", help="do not read the terminal")
    args = options.parse_args()
    try:
        asyncio.run(Person(args).run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass


if __name__ == "__main__":
    main()
