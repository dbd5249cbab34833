/* A remap plugin whose transform makes the letters of a response's body large: what rewriting every byte costs where no
 * sandbox and no interpreter stands between Traffic Server and the work. Each byte is read once and written once, into
 * Traffic Server's own block. Parameters as null_transform.c's.
 */
#include <stdint.h>
#include <ts/ts.h>

typedef unsigned char letters __attribute__((vector_size(16), aligned(1)));

/* Sixteen at a time, as the guests do it. */
static void
large(char *to, const char *from, int64_t size)
{
    int64_t at = 0;

    for (; at + (int64_t)sizeof(letters) <= size; at += sizeof(letters)) {
        letters some = *(const letters *)(from + at);

        *(letters *)(to + at) = some - ((letters)(some - 'a' < 26) & 32);
    }
    for (; at < size; at++) {
        unsigned char letter = from[at];

        to[at] = letter - ((unsigned char)(letter - 'a') < 26 ? 32 : 0);
    }
}

static void
upper(TSIOBuffer output, TSIOBufferReader reader, int64_t size)
{
    TSIOBufferBlock from = TSIOBufferReaderStart(reader);
    const char *source   = NULL;
    int64_t waiting      = 0;

    while (size > 0) {
        int64_t room = 0, count;
        char *place  = TSIOBufferBlockWriteStart(TSIOBufferStart(output), &room);

        while (waiting == 0) {
            source = TSIOBufferBlockReadStart(from, reader, &waiting);
            from   = TSIOBufferBlockNext(from);
        }
        count = room < waiting ? room : waiting;
        count = count < size ? count : size;
        large(place, source, count);
        TSIOBufferProduce(output, count);
        source += count;
        waiting -= count;
        size -= count;
    }
}

#define PASS upper
#include "null_transform.c"
