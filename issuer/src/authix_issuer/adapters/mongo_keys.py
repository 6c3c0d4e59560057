"""The ring of signing keys in MongoDB.

Rule: one document, and a write of it names the version that it replaces. It is read from the primary and as a majority
has it, whatever the URL says, so that a ring that was seen is never lost again.
"""

from __future__ import annotations

from pymongo import ReadPreference
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from authix_issuer.adapters.mongo import Documents, translated
from authix_issuer.ports import KeptRing

_ID = "ring"


class MongoKeys:
    """A ``KeyStore``."""

    def __init__(self, database: Documents) -> None:
        self._database = database
        self._rings = database.key_ring.with_options(
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,  # type: ignore[arg-type]  # motor's stub names its namespace
        )

    async def load(self) -> KeptRing:
        with translated():
            found = await self._rings.find_one({"_id": _ID})
        return KeptRing(0, b"") if found is None else KeptRing(found["version"], bytes(found["sealed"]))

    async def save(self, ring: KeptRing) -> bool:
        with translated():
            if ring.version == 1:
                try:
                    await self._rings.insert_one({"_id": _ID, **ring._asdict()})
                except DuplicateKeyError:
                    return False
                return True
            before = {"_id": _ID, "version": ring.version - 1}
            return (await self._rings.update_one(before, {"$set": ring._asdict()})).matched_count == 1

    async def check(self) -> None:
        with translated():
            await self._database.command("ping")
