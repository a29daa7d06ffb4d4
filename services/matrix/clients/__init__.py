"""The clients, by the name of their format."""

from __future__ import annotations

from services.matrix.clients.chat import ChatClient
from services.matrix.clients.gemini import GeminiClient
from services.matrix.clients.messages import MessagesClient
from services.matrix.clients.responses import ResponsesClient
from services.matrix.conversation import Client

CLIENTS: dict[str, Client] = {
    client.name: client for client in (ChatClient(), ResponsesClient(), MessagesClient(), GeminiClient())
}
