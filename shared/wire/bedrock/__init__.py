"""Amazon Bedrock's Converse API, as a provider. Streams are AWS's binary event stream, not server-sent events.

Source: Bedrock API reference, Converse and ConverseStream. Bedrock is no client format here.
"""

from shared.wire.bedrock.encode import encode_call
from shared.wire.bedrock.reply import decode_reply
from shared.wire.bedrock.stream import StreamDecoder
from shared.wire.translate import json_error_message as error_message

__all__ = ["StreamDecoder", "decode_reply", "encode_call", "error_message"]
