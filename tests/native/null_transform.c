/* A remap plugin whose transform passes a response's body on by reference, and does nothing else: what any transform
 * costs in Traffic Server. In the manner of its example of that name.
 *
 * Parameter `length`: the output is said to have the input's length, where that is known; else the response goes out
 * in chunks, as the example's does. The cache keeps what the origin sent.
 *
 * upper_transform.c includes this, and has another PASS.
 */
#include <stdint.h>
#include <string.h>

/* What follows needs what this declares. */
#include <ts/ts.h>

#include <ts/remap.h>

typedef struct {
    TSVIO output;
    TSIOBuffer buffer;
    int length;
} Body;

#ifndef PASS
/* Passes the first bytes of a buffer on, and leaves them there. */
static void
by_reference(TSIOBuffer output, TSIOBufferReader reader, int64_t size)
{
    TSIOBufferCopy(output, reader, size, 0);
}
#define PASS by_reference
#endif

static void
move(TSCont transform)
{
    Body *body   = TSContDataGet(transform);
    TSVIO input  = TSVConnWriteVIOGet(transform);
    int64_t size = 0;

    if (body->output == NULL) {
        int64_t nbytes = body->length ? TSVIONBytesGet(input) : INT64_MAX;

        body->buffer = TSIOBufferCreate();
        body->output = TSVConnWrite(TSTransformOutputVConnGet(transform), transform, TSIOBufferReaderAlloc(body->buffer), nbytes);
    }
    if (TSVIOBufferGet(input) == NULL) {
        TSVIONBytesSet(body->output, TSVIONDoneGet(input));
        TSVIOReenable(body->output);
        return;
    }
    if (TSVIONTodoGet(input) > 0) {
        TSIOBufferReader reader = TSVIOReaderGet(input);

        size = TSIOBufferReaderAvail(reader);
        if (size > TSVIONTodoGet(input)) {
            size = TSVIONTodoGet(input);
        }
        if (size > 0) {
            PASS(body->buffer, reader, size);
            TSIOBufferReaderConsume(reader, size);
            TSVIONDoneSet(input, TSVIONDoneGet(input) + size);
        }
    }
    if (TSVIONTodoGet(input) > 0) {
        if (size > 0) {
            TSVIOReenable(body->output);
            TSContCall(TSVIOContGet(input), TS_EVENT_VCONN_WRITE_READY, input);
        }
    } else {
        TSVIONBytesSet(body->output, TSVIONDoneGet(input));
        TSVIOReenable(body->output);
        TSContCall(TSVIOContGet(input), TS_EVENT_VCONN_WRITE_COMPLETE, input);
    }
}

static int
handle(TSCont transform, TSEvent event, void *edata)
{
    (void)edata;
    if (TSVConnClosedGet(transform)) {
        Body *body = TSContDataGet(transform);

        if (body->buffer != NULL) {
            TSIOBufferDestroy(body->buffer);
        }
        TSfree(body);
        TSContDestroy(transform);
        return 0;
    }
    switch (event) {
    case TS_EVENT_ERROR: {
        TSVIO input = TSVConnWriteVIOGet(transform);

        TSContCall(TSVIOContGet(input), TS_EVENT_ERROR, input);
        break;
    }
    case TS_EVENT_VCONN_WRITE_COMPLETE:
        TSVConnShutdown(TSTransformOutputVConnGet(transform), 0, 1);
        break;
    default:
        move(transform);
    }
    return 0;
}

TSReturnCode
TSRemapInit(TSRemapInterface *interface, char *error, int size)
{
    (void)interface, (void)error, (void)size;
    return TS_SUCCESS;
}

/* The instance is the address of one of these. */
static const int kinds[2] = {0, 1};

TSReturnCode
TSRemapNewInstance(int argc, char *argv[], void **instance, char *error, int size)
{
    (void)error, (void)size;
    /* The rule's two URLs come first. */
    *instance = (void *)&kinds[argc > 2 && strcmp(argv[2], "length") == 0];
    return TS_SUCCESS;
}

void
TSRemapDeleteInstance(void *instance)
{
    (void)instance;
}

TSRemapStatus
TSRemapDoRemap(void *instance, TSHttpTxn txn, TSRemapRequestInfo *request)
{
    TSVConn transform = TSTransformCreate(handle, txn);
    Body *body        = TSmalloc(sizeof(Body));

    (void)request;
    *body = (Body){.length = *(const int *)instance};
    TSContDataSet(transform, body);
    TSHttpTxnHookAdd(txn, TS_HTTP_RESPONSE_TRANSFORM_HOOK, transform);
    TSHttpTxnUntransformedRespCache(txn, 1);
    TSHttpTxnTransformedRespCache(txn, 0);
    return TSREMAP_NO_REMAP;
}
