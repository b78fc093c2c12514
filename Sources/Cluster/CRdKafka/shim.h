#ifndef POSTHORN_CRDKAFKA_H
#define POSTHORN_CRDKAFKA_H

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#endif
