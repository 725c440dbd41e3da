# SPDX-License-Identifier: Apache-2.0
"""Sets single settings of topics and leaves all others alone: Kafka's IncrementalAlterConfigs (KIP-339, Kafka 2.3).

aiokafka 0.14 has AlterConfigs only, which resets every setting that it does not name. Reading the present settings and
sending them again would do too, but for what somebody changes in between. So the request is written down here, out of
aiokafka's own protocol classes, as Kafka's IncrementalAlterConfigsRequest.json has it (version 0).
"""

from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from common.errors import Refusal

_API_KEY = 44
_SET = 0


class _Response(Response):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
            ),
        ),
    )


class _Struct(RequestStruct):  # type: ignore[misc]
    API_KEY = _API_KEY
    API_VERSION = 0
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                (
                    "configs",
                    Array(("name", String("utf-8")), ("config_operation", Int8), ("value", String("utf-8"))),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class _Request(Request[_Struct]):  # type: ignore[misc]
    API_KEY = _API_KEY

    def __init__(self, resources: list[tuple[int, str, list[tuple[str, int, str]]]]) -> None:
        self._resources = resources

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        return request_struct_class(self._resources, False)


async def set_settings(admin: AIOKafkaAdminClient, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Set what is named, by topic, and nothing else; raise `Refusal` where the broker says no."""
    resources = [
        (ConfigResourceType.TOPIC, topic, [(name, _SET, value) for name, value in each.items()])
        for topic, each in settings.items()
    ]
    response = await admin._send_request(_Request(resources))  # noqa: SLF001 - the only way to send such a request
    for code, message, _, name in response.responses:
        if code:
            raise Refusal(f"topic {name}: {message or for_code(code).__name__}")
