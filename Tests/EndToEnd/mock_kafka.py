"""Hosts librdkafka's mock cluster in a process of its own: prints its bootstrap servers, and serves until it is ended."""

import ctypes
import signal
import sys

library = ctypes.CDLL("librdkafka.so.1")
library.rd_kafka_conf_new.restype = ctypes.c_void_p
library.rd_kafka_new.restype = ctypes.c_void_p
library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
library.rd_kafka_mock_topic_create.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
library.rd_kafka_mock_broker_set_down.argtypes = [ctypes.c_void_p, ctypes.c_int32]
library.rd_kafka_mock_broker_set_up.argtypes = [ctypes.c_void_p, ctypes.c_int32]
library.rd_kafka_mock_broker_set_rtt.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int]
library.rd_kafka_mock_partition_set_leader.argtypes = [
    ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32,
]
library.rd_kafka_mock_push_request_errors_array.argtypes = [
    ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int),
]
library.rd_kafka_mock_clear_request_errors.argtypes = [ctypes.c_void_p, ctypes.c_int16]

PRODUCER = 0
text = ctypes.create_string_buffer(512)
host = library.rd_kafka_new(PRODUCER, library.rd_kafka_conf_new(), text, len(text))
assert host, text.value
cluster = library.rd_kafka_mock_cluster_new(host, int(sys.argv[1]))
print(f"BROKERS={library.rd_kafka_mock_cluster_bootstraps(cluster).decode()}", flush=True)



def make(name, count):
    return library.rd_kafka_mock_topic_create(cluster, name.encode(), int(count), 1)


def fail(request, error, count):
    """The next requests of a kind are answered with an error."""
    errors = (ctypes.c_int * int(count))(*[int(error)] * int(count))
    library.rd_kafka_mock_push_request_errors_array(cluster, int(request), int(count), errors)


def clear(request):
    library.rd_kafka_mock_clear_request_errors(cluster, int(request))


# Broker -1 is all of them; leader -1 is none.
COMMANDS = {
    "make": make,
    "down": lambda broker: library.rd_kafka_mock_broker_set_down(cluster, int(broker)),
    "up": lambda broker: library.rd_kafka_mock_broker_set_up(cluster, int(broker)),
    "delay": lambda milliseconds: library.rd_kafka_mock_broker_set_rtt(cluster, -1, int(milliseconds)),
    "lead": lambda topic, partition, broker: library.rd_kafka_mock_partition_set_leader(
        cluster, topic.encode(), int(partition), int(broker)
    ),
    "fail": fail,
    "clear": clear,
}

# Commands come on standard input, a line each; topics are made by one, since the mock has no admin API.
for line in sys.stdin:
    command, *arguments = line.split()
    assert not COMMANDS[command](*arguments), line
    print(f"DONE {command}", flush=True)
signal.pause()
