"""A person in encrypted rooms: matrix-nio, whose Olm machine is not the one under test.

One JSON object a line. On stdin commands: {"id": 1, "do": "send", "room": …, …}; on stdout an
answer to each: {"id": 1, "ok": {…}} or {"id": 1, "error": "…"}, and in between whatever
happens: {"event": {the event, decrypted}, "room": …, "decrypted": true}. An event that cannot be
decrypted comes as it is, with "type": "m.room.encrypted", and once more when its key arrives.
The program ends when stdin closes.

Commands: login {homeserver, user_id, device_id, access_token, store},
create_room {options, encrypted}, join {room}, leave {room}, invite {room, user},
enable_encryption {room}, send {room, type, content}, redact {room, event},
typing {room, typing}, read {room, event}, send_file {room, name, mime, path},
save_file {content, path}, devices {user}, fingerprint {}.
"""

import asyncio
import json
import os
import sys

import nio
from nio.crypto.attachments import decrypt_attachment

ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}
FILTER = {"room": {"timeline": {"limit": 100}}, "presence": {"types": []}}


def put(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def checked(response):
    """Lets an error of the homeserver be the command's error."""
    if isinstance(response, (nio.ErrorResponse, nio.UploadError)):
        raise RuntimeError(str(response))
    return response


def source(event):
    """The event as it came; nio takes the content out of some kinds."""
    return {"content": getattr(event, "content", {}), **event.source}


class Person:
    def __init__(self):
        self.client = None
        self.lock = asyncio.Lock()
        # Events whose key has not come yet, and who was in a room when its session was shared.
        self.locked = {}
        self.shared_with = {}

    async def login(self, homeserver, user_id, device_id, access_token, store):
        config = nio.AsyncClientConfig(
            store_sync_tokens=True, encryption_enabled=True, max_timeouts=3, request_timeout=60
        )
        self.client = nio.AsyncClient(homeserver, user_id, device_id, store, config)
        self.client.restore_login(user_id, device_id, access_token)
        self.client.add_event_callback(self.on_event, nio.Event)
        self.client.add_event_callback(self.on_invite, nio.InviteEvent)
        self.client.add_ephemeral_callback(self.on_typing, nio.TypingNoticeEvent)
        self.client.add_ephemeral_callback(self.on_receipt, nio.ReceiptEvent)
        # The first sync is made here, so that the device's keys are there when "login" is answered.
        checked(await self.client.sync(timeout=0, sync_filter=FILTER))
        await self.upkeep()
        self.task = asyncio.create_task(self.sync_for_ever())
        return {"ed25519": self.client.olm.account.identity_keys["ed25519"]}

    async def sync_for_ever(self):
        while True:
            since = self.client.next_batch
            try:
                response = await self.client.sync(timeout=10000, sync_filter=FILTER)
            except Exception as error:  # the story may have stopped the server
                print(f"sync: {error!r}", file=sys.stderr)
                await asyncio.sleep(0.1)
                continue
            if isinstance(response, nio.ErrorResponse):
                print(f"sync: {response}", file=sys.stderr)
                await asyncio.sleep(0.1)
                continue
            for room, info in response.rooms.join.items():
                if info.timeline.limited and since:
                    await self.fill_gap(room, info.timeline.prev_batch, since)
            try:
                await self.upkeep()
            except Exception as error:
                print(f"upkeep: {error!r}", file=sys.stderr)

    async def upkeep(self):
        """What sync() leaves to its caller: keys to upload, to look up, to claim; late keys."""
        async with self.lock:
            client = self.client
            if client.should_upload_keys:
                await client.keys_upload()
            if client.should_query_keys:
                await client.keys_query()
            if client.should_claim_keys:
                await client.keys_claim(client.get_users_for_key_claiming())
            await client.send_to_device_messages()
        for event in list(self.locked.values()):
            try:
                opened = client.decrypt_event(event)
            except nio.EncryptionError:
                continue
            if isinstance(opened, nio.Event):
                del self.locked[event.event_id]
                self.show(event.room_id, opened)

    async def fill_gap(self, room, start, end):
        while start:
            page = await self.client.room_messages(room, start, end, limit=500)
            if isinstance(page, nio.ErrorResponse) or not page.chunk:
                return
            for event in reversed(page.chunk):
                self.show(room, event)
            start = page.end

    def show(self, room, event):
        if isinstance(event, nio.MegolmEvent):
            event.room_id = event.room_id or room
            self.locked[event.event_id] = event
        put({"event": source(event), "room": room, "decrypted": bool(event.decrypted)})

    async def on_event(self, room, event):
        self.show(room.room_id, event)

    async def on_invite(self, room, event):
        put({"event": source(event), "room": room.room_id, "decrypted": False})

    async def on_typing(self, room, event):
        content = {"user_ids": event.users}
        put({"event": {"type": "m.typing", "content": content}, "room": room.room_id})

    async def on_receipt(self, room, event):
        content = {}
        for receipt in event.receipts:
            of = content.setdefault(receipt.event_id, {}).setdefault(receipt.receipt_type, {})
            of[receipt.user_id] = {"ts": receipt.timestamp}
        put({"event": {"type": "m.receipt", "content": content}, "room": room.room_id})

    async def create_room(self, options, encrypted=True):
        options = dict(options)
        if encrypted:
            options["initial_state"] = options.get("initial_state", []) + [ENCRYPTION]
        # Straight to the API: nio's own method knows only some of the options.
        response = await self.api("POST", "createRoom", options)
        await self.until_known(response["room_id"], encrypted)
        return response

    async def api(self, method, path, body):
        response = await self.client.send(
            method,
            f"/_matrix/client/v3/{path}",
            json.dumps(body),
            {
                "Authorization": f"Bearer {self.client.access_token}",
                "Content-Type": "application/json",
            },
        )
        answer = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {answer}")
        return answer

    async def until_known(self, room, encrypted=False):
        for _ in range(1500):
            known = self.client.rooms.get(room)
            if known and (known.encrypted or not encrypted):
                return
            await asyncio.sleep(0.02)
        raise RuntimeError(f"{room} does not show up in the sync")

    async def join(self, room):
        checked(await self.client.join(room))
        await self.until_known(room)
        return {}

    async def leave(self, room):
        checked(await self.client.room_leave(room))
        return {}

    async def invite(self, room, user):
        checked(await self.client.room_invite(room, user))
        return {}

    async def enable_encryption(self, room):
        checked(
            await self.client.room_put_state(room, ENCRYPTION["type"], ENCRYPTION["content"])
        )
        await self.until_known(room, True)
        return {}

    async def send(self, room, content, type="m.room.message"):
        await self.until_known(room)
        async with self.lock:
            await self.rekey_for_newcomers(room)
            response = checked(
                await self.client.room_send(room, type, content, ignore_unverified_devices=True)
            )
        return {"event_id": response.event_id}

    async def rekey_for_newcomers(self, room):
        """nio shares a session once; who came since, person or device, would be left out."""
        known = self.client.rooms[room]
        if not known.encrypted:
            return
        checked(await self.client.joined_members(room))
        self.client.olm.users_for_key_query.update(known.users)
        await self.client.keys_query()
        devices = {
            (user, device.id)
            for user in known.users
            for device in self.client.device_store.active_user_devices(user)
        }
        if not devices <= self.shared_with.get(room, set()):
            self.client.invalidate_outbound_session(room)
        self.shared_with[room] = devices

    async def redact(self, room, event):
        checked(await self.client.room_redact(room, event))
        return {}

    async def typing(self, room, typing):
        checked(await self.client.room_typing(room, typing, 30000))
        return {}

    async def read(self, room, event):
        checked(await self.client.room_read_markers(room, event, event))
        return {}

    async def send_file(self, room, name, mime, path):
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            response, keys = await self.client.upload(
                file, content_type=mime, filename=name, encrypt=True, filesize=size
            )
        checked(response)
        content = {
            "msgtype": "m.file",
            "body": name,
            "info": {"mimetype": mime, "size": size},
            "file": {"url": response.content_uri, "mimetype": mime, **keys},
        }
        return await self.send(room, content)

    async def save_file(self, content, path):
        file = content["file"]
        response = checked(await self.client.download(file["url"]))
        plain = decrypt_attachment(
            response.body, file["key"]["k"], file["hashes"]["sha256"], file["iv"]
        )
        with open(path, "wb") as out:
            out.write(plain)
        return {"size": len(plain)}

    async def devices(self, user):
        async with self.lock:
            self.client.olm.users_for_key_query.add(user)
            await self.client.keys_query()
        found = self.client.device_store.active_user_devices(user)
        return {"devices": {device.id: device.ed25519 for device in found}}

    async def fingerprint(self):
        return {"ed25519": self.client.olm.account.identity_keys["ed25519"]}

    async def run(self, command):
        number = command.pop("id")
        try:
            put({"id": number, "ok": await getattr(self, command.pop("do"))(**command)})
        except Exception as error:
            put({"id": number, "error": repr(error)})


async def main():
    person = Person()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    while line := await reader.readline():
        task = asyncio.create_task(person.run(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)


asyncio.run(main())
