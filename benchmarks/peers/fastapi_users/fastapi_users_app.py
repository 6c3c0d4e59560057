"""fastapi-users set up as its documentation does: SQLAlchemy, bearer tokens, JWT strategy; Argon2 by the environment.

Runs in an environment of its own, so the project's type checker sees none of its imports.
"""
# mypy: ignore-errors

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users.password import PasswordHelper
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

MEMORY, PASSES, LANES = map(int, os.environ["ARGON2"].split(","))
SECRET = os.environ["SECRET"]

engine = create_async_engine(os.environ["DATABASE"])
new_session = async_sessionmaker(engine, expire_on_commit=False)
passwords = PasswordHelper(
    PasswordHash((Argon2Hasher(memory_cost=MEMORY, time_cost=PASSES, parallelism=LANES),)),
)


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = SECRET
    verification_token_secret = SECRET


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def get_user_database(
    session: Annotated[AsyncSession, Depends(get_session)],
) -> AsyncIterator[SQLAlchemyUserDatabase]:
    yield SQLAlchemyUserDatabase(session, User)


async def get_user_manager(
    database: Annotated[SQLAlchemyUserDatabase, Depends(get_user_database)],
) -> AsyncIterator[UserManager]:
    yield UserManager(database, passwords)


backend = AuthenticationBackend(
    name="jwt",
    transport=BearerTransport(tokenUrl="auth/jwt/login"),
    get_strategy=lambda: JWTStrategy(secret=SECRET, lifetime_seconds=300),
)
users = FastAPIUsers[User, uuid.UUID](get_user_manager, [backend])
active_user = users.current_user(active=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    if os.environ.get("CREATE"):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.include_router(users.get_auth_router(backend), prefix="/auth/jwt")
app.include_router(users.get_register_router(schemas.BaseUser[uuid.UUID], schemas.BaseUserCreate), prefix="/auth")


@app.get("/me")
async def me(user: Annotated[User, Depends(active_user)]) -> dict[str, str]:
    return {"of": str(user.id)}
