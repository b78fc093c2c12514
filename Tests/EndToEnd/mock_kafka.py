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

PRODUCER = 0
text = ctypes.create_string_buffer(512)
host = library.rd_kafka_new(PRODUCER, library.rd_kafka_conf_new(), text, len(text))
assert host, text.value
cluster = library.rd_kafka_mock_cluster_new(host, int(sys.argv[1]))
print(f"BROKERS={library.rd_kafka_mock_cluster_bootstraps(cluster).decode()}", flush=True)

# Topics are made by name on standard input, since the mock has no admin API: "NAME PARTITIONS".
for line in sys.stdin:
    name, count = line.split()
    assert library.rd_kafka_mock_topic_create(cluster, name.encode(), int(count), 1) == 0
    print(f"MADE {name}", flush=True)
signal.pause()
