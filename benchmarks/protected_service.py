"""A FastAPI service behind the SDK: what verifying costs a service, beside the same route behind fastapi-users."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI

from authix import Claims
from authix.fastapi import FastAPIAuthix

app = FastAPI()
auth = FastAPIAuthix(app)
User = Annotated[Claims, Depends(auth.required())]


@app.get("/me")
async def me(user: User) -> dict[str, str]:
    return {"of": user.subject}
