/* The hot paths in C: what `recorder.py`, `suspension.py` and `events.py` do in Python, for the same records and bytes.

   The Python code is the definition; `tests/agent/test_twins.py` holds the two together, byte for byte. What is seldom
   asked for is left to it: values that are no short scalars, exceptions, the beginning of a trace, a full queue.

   Two things are different, and make this simpler. C code is not interrupted between its instructions: a signal handler
   runs only where Python code is called. And `enter` is called as ``enter[names, values]``: behind a call, but not
   behind a subscript, the interpreter looks for signals, and what a handler raised there would lose the flow. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <structmember.h>
#include <time.h>

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x030E0000
#error "it knows the Pythons from 3.11 to 3.13"
#endif
#ifdef Py_GIL_DISABLED
#error "it counts on the GIL"
#endif

enum { ENTER, EXIT, EXCEPTION, STATEMENT };

/* -- what the recorder and the dispatcher share ------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    uint64_t serial; /* no other has had it: addresses are used again */
    long long queued_bytes, look_at, full_at, max_events, wake_at, first;
    long long lost_calls, lost_events, skipped_calls, suppressed_calls;
    double rate;
    char woken;
    PyObject *in_loop, *task_name, *current_task, *name_of, *elsewhere, *wake;
} Counters;

typedef struct {
    PyObject_HEAD
    PyObject *id, *raised;
    char busy;
} Thread;

#ifdef __GLIBC__
__attribute__((tls_model("initial-exec"))) /* 32 bytes of what the loader keeps free for this: no call to find them */
#endif
static _Thread_local struct {
    uint64_t serial, state; /* of the recorder, and of Python's own thread state: C threads have one after the other */
    uint64_t gone; /* how many threads had gone that others let go of */
    Thread *thread; /* borrowed: the recorder's thread-local storage has it, and it leaves here when it goes */
} known;

static uint64_t gone;

static PyObject *counters_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static uint64_t count;
    Counters *self = (Counters *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->serial = ++count;
    }
    return (PyObject *)self;
}

static int counters_traverse(Counters *self, visitproc visit, void *arg)
{
    Py_VISIT(self->in_loop);
    Py_VISIT(self->task_name);
    Py_VISIT(self->current_task);
    Py_VISIT(self->name_of);
    Py_VISIT(self->elsewhere);
    Py_VISIT(self->wake);
    return 0;
}

static int counters_clear(Counters *self)
{
    Py_CLEAR(self->in_loop);
    Py_CLEAR(self->task_name);
    Py_CLEAR(self->current_task);
    Py_CLEAR(self->name_of);
    Py_CLEAR(self->elsewhere);
    Py_CLEAR(self->wake);
    return 0;
}

static void counters_dealloc(Counters *self)
{
    PyObject_GC_UnTrack(self);
    counters_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef counters_members[] = {
    {"queued_bytes", T_LONGLONG, offsetof(Counters, queued_bytes)},
    {"look_at", T_LONGLONG, offsetof(Counters, look_at)},
    {"full_at", T_LONGLONG, offsetof(Counters, full_at)},
    {"_max_events", T_LONGLONG, offsetof(Counters, max_events)},
    {"_wake_at", T_LONGLONG, offsetof(Counters, wake_at)},
    {"first", T_LONGLONG, offsetof(Counters, first)},
    {"lost_calls", T_LONGLONG, offsetof(Counters, lost_calls)},
    {"lost_events", T_LONGLONG, offsetof(Counters, lost_events)},
    {"skipped_calls", T_LONGLONG, offsetof(Counters, skipped_calls)},
    {"suppressed_calls", T_LONGLONG, offsetof(Counters, suppressed_calls)},
    {"rate", T_DOUBLE, offsetof(Counters, rate)},
    {"woken", T_BOOL, offsetof(Counters, woken)},
    {"in_loop", T_OBJECT, offsetof(Counters, in_loop)},
    {"task_name", T_OBJECT, offsetof(Counters, task_name)},
    {"current_task", T_OBJECT, offsetof(Counters, current_task)},
    {"name_of", T_OBJECT, offsetof(Counters, name_of)},
    {"elsewhere", T_OBJECT, offsetof(Counters, elsewhere)},
    {"wake", T_OBJECT, offsetof(Counters, wake)},
    {NULL},
};

static PyTypeObject CountersType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Counters",
    .tp_basicsize = sizeof(Counters),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Counters and limits that the recorder and the dispatcher share.",
    .tp_new = counters_new,
    .tp_dealloc = (destructor)counters_dealloc,
    .tp_traverse = (traverseproc)counters_traverse,
    .tp_clear = (inquiry)counters_clear,
    .tp_members = counters_members,
};

static void thread_dealloc(Thread *self)
{
    if (known.thread == self) {
        known.serial = 0;
        known.thread = NULL;
    } else {
        gone++;
    }
    Py_XDECREF(self->id);
    Py_XDECREF(self->raised);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef thread_members[] = {
    {"id", T_OBJECT, offsetof(Thread, id)},
    {"busy", T_BOOL, offsetof(Thread, busy)},
    {"raised", T_OBJECT, offsetof(Thread, raised)},
    {NULL},
};

static PyTypeObject ThreadType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Thread",
    .tp_basicsize = sizeof(Thread),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_doc = "What the recorder knows of one thread.",
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)thread_dealloc,
    .tp_members = thread_members,
};

/* Objects are made whole or not at all: there is no `__init__` that could be left out or called again. */
#define MADE_BY(name, init, Type)                                                                                      \
    static PyObject *name(PyTypeObject *type, PyObject *args, PyObject *kwargs)                                        \
    {                                                                                                                  \
        PyObject *self = type->tp_alloc(type, 0);                                                                      \
        if (self != NULL && init((Type *)self, args, kwargs) < 0) {                                                    \
            Py_CLEAR(self);                                                                                            \
        }                                                                                                              \
        return self;                                                                                                   \
    }

#define CLEAN_TEXTS 1024 /* that are remembered: a power of two */

/* -- what the functions of one encoder have in common ------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Counters *state;
    PyObject *recorder, *queue, *append, *current, *seq, *clock, *is_clean, *room_for, *arguments, *result, *described;
    PyObject *lost, *skipped, *raised, *lost_exception, *lost_recursion_error, *lost_memory_error;
    PyObject *no_result, *not_captured;
    Py_buffer here;
    bool is_system_clock, takes_scalar_arguments, takes_scalar_results;
    long long max_string, max_result, unchecked, unchecked_word, plain_int, call_bytes, scalar_bytes;
    Py_hash_t clean[CLEAN_TEXTS]; /* hashes of texts that hold no secret, each where it belongs; 0: none */
} Core;

#define EACH_OBJECT_OF_CORE(DO)                                                                                        \
    DO(recorder) DO(queue) DO(append) DO(current) DO(seq) DO(clock) DO(is_clean) DO(room_for) DO(arguments) DO(result) \
    DO(described) DO(lost) DO(skipped) DO(raised) DO(lost_exception) DO(lost_recursion_error) DO(lost_memory_error)    \
    DO(no_result) DO(not_captured)

static int core_traverse(Core *self, visitproc visit, void *arg)
{
#define DO(name) Py_VISIT(self->name);
    EACH_OBJECT_OF_CORE(DO)
#undef DO
    Py_VISIT(self->state);
    return 0;
}

static int core_clear(Core *self)
{
    return 0; /* functions refer to it and expect it whole; what closes the circle is cleared there, or in Python */
}

static void core_dealloc(Core *self)
{
    PyObject_GC_UnTrack(self);
#define DO(name) Py_CLEAR(self->name);
    EACH_OBJECT_OF_CORE(DO)
#undef DO
    Py_CLEAR(self->state);
    if (self->here.obj != NULL) {
        PyBuffer_Release(&self->here);
    }
    Py_TYPE(self)->tp_free(self);
}

static int core_init(Core *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "recorder", "state", "queue", "here", "current", "seq", "clock", "is_system_clock", "arguments", "result",
        "described", "is_clean", "room_for", "takes_scalar_arguments", "takes_scalar_results", "max_string",
        "max_result", "unchecked", "unchecked_word", "plain_int", "call_bytes", "scalar_bytes", "lost", "skipped",
        "raised", "lost_exception", "lost_recursion_error", "lost_memory_error", "no_result", "not_captured", NULL,
    };
    PyObject *state, *here;
    int is_system_clock, takes_scalar_arguments, takes_scalar_results;
    PyObject_GC_UnTrack(self); /* until what it refers to is its own */
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$OO!OOOOOpOOOOOppLLLLLLLOOOSSSSS:Core", names, &self->recorder, &CountersType, &state,
            &self->queue, &here, &self->current, &self->seq, &self->clock, &is_system_clock, &self->arguments,
            &self->result, &self->described, &self->is_clean, &self->room_for, &takes_scalar_arguments,
            &takes_scalar_results, &self->max_string, &self->max_result, &self->unchecked, &self->unchecked_word,
            &self->plain_int, &self->call_bytes, &self->scalar_bytes, &self->lost, &self->skipped, &self->raised,
            &self->lost_exception, &self->lost_recursion_error, &self->lost_memory_error, &self->no_result,
            &self->not_captured)) {
#define DO(name) self->name = NULL;
        EACH_OBJECT_OF_CORE(DO)
#undef DO
        return -1;
    }
    self->append = NULL;
#define DO(name) Py_XINCREF(self->name);
    EACH_OBJECT_OF_CORE(DO)
#undef DO
    self->state = (Counters *)Py_NewRef(state);
    self->is_system_clock = is_system_clock;
    self->takes_scalar_arguments = takes_scalar_arguments;
    self->takes_scalar_results = takes_scalar_results;
    if (!PyContextVar_CheckExact(self->current) || Py_TYPE(self->seq)->tp_iternext == NULL) {
        PyErr_SetString(PyExc_TypeError, "current has to be a ContextVar, and seq an iterator");
        return -1;
    }
    PyObject_GC_Track(self);
    self->append = PyObject_GetAttrString(self->queue, "append");
    return self->append == NULL ? -1 : PyObject_GetBuffer(here, &self->here, PyBUF_SIMPLE);
}

MADE_BY(core_new, core_init, Core)

static PyTypeObject CoreType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Core",
    .tp_basicsize = sizeof(Core),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "What the functions of targets that share an encoder have in common.",
    .tp_new = core_new,
    .tp_dealloc = (destructor)core_dealloc,
    .tp_traverse = (traverseproc)core_traverse,
    .tp_clear = (inquiry)core_clear,
};

static Thread *thread_of(Core *core) /* borrowed */
{
    uint64_t state = PyThreadState_Get()->id;
    if (known.serial == core->state->serial && known.state == state && known.gone == gone) {
        return known.thread;
    }
    PyObject *made = PyObject_CallMethod(core->recorder, "thread", NULL);
    if (made == NULL) {
        return NULL;
    }
    if (!PyObject_TypeCheck(made, &ThreadType)) {
        Py_DECREF(made);
        PyErr_SetString(PyExc_TypeError, "thread() has to give a Thread");
        return NULL;
    }
    known.serial = core->state->serial;
    known.state = state;
    known.gone = gone;
    known.thread = (Thread *)made;
    Py_DECREF(made); /* the thread-local storage has it */
    if (known.thread == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "thread() has to keep what it gives");
    }
    return known.thread;
}

static long long now_of(Core *core) /* -1 with an exception set */
{
    if (core->is_system_clock) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return time.tv_sec * 1000000000LL + time.tv_nsec;
    }
    PyObject *number = PyObject_CallNoArgs(core->clock);
    if (number == NULL) {
        return -1;
    }
    long long now = PyLong_AsLongLong(number);
    Py_DECREF(number);
    return now;
}

static inline PyObject *next_number(Core *core)
{
    return Py_TYPE(core->seq)->tp_iternext(core->seq);
}

static inline PyObject *current_of(Core *core)
{
    PyObject *current = NULL;
    return PyContextVar_Get(core->current, Py_None, &current) < 0 ? NULL : current;
}

static inline int set_current(Core *core, PyObject *current)
{
    PyObject *token = PyContextVar_Set(core->current, current);
    Py_XDECREF(token);
    return token == NULL ? -1 : 0;
}

static PyObject *raised_error(void) /* the exception that is set, no longer set */
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static void set_raised_error(PyObject *error) /* takes the reference */
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* The answer of a function that Python code has set, and may set anew or delete meanwhile. */
static PyObject *called(PyObject *function, PyObject *argument)
{
    if (function == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a function of the state is gone");
        return NULL;
    }
    Py_INCREF(function);
    PyObject *answer = argument ? PyObject_CallOneArg(function, argument) : PyObject_CallNoArgs(function);
    Py_DECREF(function);
    return answer;
}

/* The gate: None where the exception that is set was ours, else NULL with the one that goes on. */
static PyObject *failed(Core *core)
{
    PyObject *error = raised_error();
    PyObject *answer = PyObject_CallMethod(core->recorder, "_failed", "O", error);
    Py_XDECREF(error);
    return answer;
}

/* -- what may be queued as it is ---------------------------------------------------------------------------------- */

static bool is_alphanumeric(PyObject *text)
{
    const unsigned char *characters = PyUnicode_DATA(text);
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    for (Py_ssize_t i = 0; i < length; i++) {
        if (!Py_ISALNUM(characters[i])) {
            return false;
        }
    }
    return length > 0;
}

/* How many characters of text count for a value that may be queued as it is; -1: it may not; -2: an exception. */
static long long scalar_size(Core *core, PyObject *value, long long max_string)
{
    PyTypeObject *kind = Py_TYPE(value);
    if (kind == &PyUnicode_Type) {
        if (PyUnicode_READY(value) < 0) {
            return -2;
        }
        if (!PyUnicode_IS_ASCII(value)) {
            return -1;
        }
        long long length = PyUnicode_GET_LENGTH(value);
        if (length <= core->unchecked) {
            return length;
        }
        if (length > max_string) {
            return -1;
        }
        if (length <= core->unchecked_word && is_alphanumeric(value)) {
            return length;
        }
        Py_hash_t hash = PyObject_Hash(value), *clean = &core->clean[hash & (CLEAN_TEXTS - 1)];
        if (*clean == hash && hash != 0) { /* as the redactor does it: the same 64 bits are the same text */
            return length;
        }
        PyObject *answer = PyObject_CallOneArg(core->is_clean, value);
        if (answer == NULL) {
            return -2;
        }
        bool is_clean = answer == Py_True;
        Py_DECREF(answer);
        if (is_clean) {
            *clean = hash;
        }
        return is_clean ? length : -1;
    }
    if (kind == &PyLong_Type) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return !overflow && -core->plain_int < number && number < core->plain_int ? 0 : -1;
    }
    if (kind == &PyFloat_Type) {
        return isfinite(PyFloat_AS_DOUBLE(value)) ? 0 : -1;
    }
    return value == Py_None || kind == &PyBool_Type ? 0 : -1;
}

/* -- flows -------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *above, *span, *trace, *parent, *task; /* span, trace, parent and task only of a call that is recorded */
    Thread *thread;
    long long number, started;
} Flow;

static int flow_traverse(Flow *self, visitproc visit, void *arg)
{
    Py_VISIT(self->above);
    return 0;
}

static int flow_clear(Flow *self)
{
    Py_CLEAR(self->above);
    return 0;
}

static void flow_dealloc(Flow *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->above);
    Py_XDECREF(self->span);
    Py_XDECREF(self->trace);
    Py_XDECREF(self->parent);
    Py_XDECREF(self->task);
    Py_XDECREF(self->thread);
    PyObject_GC_Del(self);
}

static PyTypeObject FlowType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Flow",
    .tp_basicsize = sizeof(Flow),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A call that is under way.",
    .tp_dealloc = (destructor)flow_dealloc,
    .tp_traverse = (traverseproc)flow_traverse,
    .tp_clear = (inquiry)flow_clear,
};

static Flow *flow_new(PyObject *above, Thread *thread)
{
    Flow *flow = PyObject_GC_New(Flow, &FlowType);
    if (flow != NULL) {
        flow->above = Py_NewRef(above);
        flow->span = flow->trace = flow->parent = flow->task = NULL;
        flow->thread = (Thread *)Py_NewRef(thread);
        flow->number = -1;
        flow->started = 0;
        if (above != Py_None && PyTuple_CheckExact(above) && PyTuple_GET_SIZE(above) == 2 &&
            PyTuple_GET_ITEM(above, 1) == Py_None) {
            PyObject_GC_Track(flow); /* an entry may refer to anything; numbers and texts do not */
        }
    }
    return flow;
}

/* -- functions that traced bodies call ---------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Core *core;
    PyObject *index, *rate, *module, *qualname;
    PyObject *names; /* of the latest call, which are the same each time, and what they take on the queue: */
    long long size, most;
    bool takes;
} Function;

static int function_traverse(Function *self, visitproc visit, void *arg)
{
    Py_VISIT(self->core);
    Py_VISIT(self->names);
    return 0;
}

static int function_clear(Function *self)
{
    return 0; /* code refers to it and expects it whole */
}

static void function_dealloc(Function *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->core);
    Py_XDECREF(self->index);
    Py_XDECREF(self->rate);
    Py_XDECREF(self->module);
    Py_XDECREF(self->qualname);
    Py_XDECREF(self->names);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *function_reduce(Function *self, PyObject *ignored)
{
    return Py_NewRef(self->qualname ? self->qualname : Py_None); /* pickled and copied by name, as functions are */
}

static PyMethodDef function_methods[] = {
    {"__reduce__", (PyCFunction)function_reduce, METH_NOARGS},
    {NULL},
};

static PyMemberDef function_members[] = {
    {"__module__", T_OBJECT, offsetof(Function, module)},
    {"__qualname__", T_OBJECT, offsetof(Function, qualname)},
    {NULL},
};

static PyObject *function_repr(Function *self)
{
    return PyUnicode_FromFormat("<function %S>", self->qualname ? self->qualname : Py_None);
}

/* While tracemalloc counts, the memory that we take is to count for a line of ours, not for the program's: then these
   two functions in Python call us. */
static PyObject *framed_call, *framed_subscript;
static _Thread_local bool is_framed;

static inline bool wants_frame(void)
{
    return PyTraceMalloc_Untrack(0, 0) != -2 && !is_framed && framed_call != NULL; /* -2: it does not count */
}

static PyObject *call_framed(PyObject *self, PyObject *const *args, size_t flags)
{
    PyObject *all[6] = {NULL, self}, *answer = NULL;
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count <= 4) {
        memcpy(all + 2, args, count * sizeof(PyObject *));
        is_framed = true;
        answer = PyObject_Vectorcall(framed_call, all + 1, (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        is_framed = false;
    } else {
        PyErr_SetString(PyExc_TypeError, "it takes four arguments at most");
    }
    return answer;
}

static PyObject *subscript_framed(PyObject *self, PyObject *key)
{
    is_framed = true;
    PyObject *answer = PyObject_CallFunctionObjArgs(framed_subscript, self, key, NULL);
    is_framed = false;
    return answer;
}

static PyObject *enter_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names);
static PyObject *leave_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names);

static int function_made(
    Function *self, PyObject *core, PyObject *index, PyObject *rate, int takes, vectorcallfunc call)
{
    if (self->core != NULL) {
        PyErr_SetString(PyExc_TypeError, "is made once");
        return -1;
    }
    self->core = (Core *)Py_NewRef(core);
    self->index = Py_NewRef(index);
    self->rate = Py_NewRef(rate);
    self->takes = takes;
    self->call = call;
    return 0;
}

static int enter_init(Function *self, PyObject *args, PyObject *kwargs)
{
    PyObject *core, *index, *rate;
    int takes;
    if (!PyArg_ParseTuple(args, "O!O!pO:Enter", &CoreType, &core, &PyLong_Type, &index, &takes, &rate)) {
        return -1;
    }
    return function_made(self, core, index, rate, takes, enter_call);
}

MADE_BY(enter_new, enter_init, Function)

static int leave_init(Function *self, PyObject *args, PyObject *kwargs)
{
    PyObject *core, *index;
    int takes;
    if (!PyArg_ParseTuple(args, "O!O!p:Leave", &CoreType, &core, &PyLong_Type, &index, &takes)) {
        return -1;
    }
    return function_made(self, core, index, Py_None, takes, leave_call);
}

MADE_BY(leave_new, leave_init, Function)

/* What names of arguments take on the queue, and at most with their texts. */
static int learn_names(Function *self, PyObject *names)
{
    Core *core = self->core;
    long long room = -1;
    if (core->takes_scalar_arguments) {
        PyObject *answer = PyObject_CallOneArg(core->room_for, names);
        if (answer == NULL) {
            return -1;
        }
        room = PyLong_AsLongLong(answer);
        Py_DECREF(answer);
        if (room == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    self->size = core->call_bytes + core->scalar_bytes * PyTuple_GET_SIZE(names);
    self->most = self->size + room;
    Py_XSETREF(self->names, Py_NewRef(names));
    return 0;
}

/* The arguments as they are queued, a new reference: the values themselves, or JSON of them. */
static PyObject *payload_of(Function *self, PyObject *names, PyObject *values, long long *size)
{
    Core *core = self->core;
    if (self->names != names && learn_names(self, names) < 0) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(values);
    long long taken = self->size;
    for (Py_ssize_t i = 0; taken <= self->most; i++) {
        if (i == count) {
            *size = taken;
            PyObject_GC_UnTrack(values); /* the collector would find out, too, that it holds nothing to be followed */
            return Py_NewRef(values);
        }
        long long length = scalar_size(core, PyTuple_GET_ITEM(values, i), core->max_string);
        if (length == -2) {
            return NULL;
        }
        if (length == -1) {
            break;
        }
        taken += length > core->unchecked ? length : 0;
    }
    PyObject *by_name = PyDict_New();
    for (Py_ssize_t i = 0; by_name != NULL && i < count; i++) {
        if (PyDict_SetItem(by_name, PyTuple_GET_ITEM(names, i), PyTuple_GET_ITEM(values, i)) < 0) {
            Py_CLEAR(by_name);
        }
    }
    if (by_name == NULL) {
        return NULL;
    }
    PyObject *text = PyObject_CallOneArg(core->arguments, by_name);
    Py_DECREF(by_name);
    if (text != NULL && !PyBytes_CheckExact(text)) {
        Py_DECREF(text);
        PyErr_SetString(PyExc_TypeError, "arguments() has to give bytes");
        return NULL;
    }
    *size = core->call_bytes + (text ? PyBytes_GET_SIZE(text) : 0);
    return text;
}

static int put_on_queue(Core *core, PyObject *record) /* takes the reference; NULL where it could not be made */
{
    if (record == NULL) {
        return -1;
    }
    PyObject_GC_UnTrack(record); /* numbers, texts and None: nothing that the collector would have to follow */
    PyObject *done = PyObject_CallOneArg(core->append, record);
    Py_DECREF(record);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *not_recorded(Core *core, PyObject *above, Thread *me, PyObject *instead)
{
    Flow *flow = flow_new(above, me);
    if (flow != NULL && set_current(core, instead) < 0) {
        Py_CLEAR(flow);
    }
    return (PyObject *)flow;
}

static PyObject *begun(Function *self, PyObject *above) /* an `Entry`, or None where the trace is not recorded */
{
    return PyObject_CallMethod(self->core->recorder, "_begin", "OO", above, self->rate);
}

/* Where an entry says that a trace goes on, and what the request is; steals nothing, gives new references. */
static int take_entry(PyObject *entry, PyObject *span, PyObject **trace, PyObject **parent, PyObject **request)
{
    *trace = PyObject_GetAttrString(entry, "trace");
    if (*trace == Py_None) {
        Py_SETREF(*trace, Py_NewRef(span));
        if (PyObject_SetAttrString(entry, "trace", span) < 0) {
            return -1;
        }
    }
    *parent = *trace ? PyObject_GetAttrString(entry, "parent") : NULL;
    *request = *parent ? PyObject_CallMethod(entry, "describe", NULL) : NULL;
    return *request ? 0 : -1;
}

/* The name of the task that runs in a loop, or None: `agent._name_tasks` says how it is asked for. */
static PyObject *task_name(Counters *state, PyObject *loop)
{
    if (state->current_task == NULL || state->current_task == Py_None) {
        return called(state->task_name, NULL);
    }
    PyObject *task = called(state->current_task, loop);
    if (task == NULL || task == Py_None) {
        return task;
    }
    PyObject *name = called(state->name_of, task);
    Py_DECREF(task);
    if (name == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) { /* a task class of another event loop */
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return name;
}

/* A call that is recorded: its flow, or NULL with an exception set and nothing on the queue. */
static PyObject *recorded(
    Function *self, Thread *me, PyObject *above, PyObject *entry, PyObject *names, PyObject *values)
{
    Core *core = self->core;
    Counters *state = core->state;
    PyObject *payload, *request = NULL, *place = NULL;
    long long size = core->call_bytes;
    Flow *flow = flow_new(above, me);
    if (flow == NULL) {
        return NULL;
    }
    payload = self->takes ? payload_of(self, names, values, &size) : Py_NewRef(core->not_captured);
    if (payload == NULL) {
        goto error;
    }
    if (state->in_loop != NULL && state->in_loop != Py_None) {
        PyObject *loop = called(state->in_loop, NULL);
        if (loop == NULL) {
            goto error;
        }
        flow->task = loop == Py_None ? Py_NewRef(Py_None) : task_name(state, loop);
        Py_DECREF(loop);
        if (flow->task == NULL) {
            goto error;
        }
    } else {
        flow->task = Py_NewRef(Py_None);
    }
    flow->span = next_number(core);
    if (flow->span == NULL) {
        goto error;
    }
    if (entry != NULL) {
        if (take_entry(entry, flow->span, &flow->trace, &flow->parent, &request) < 0) {
            goto error;
        }
    } else if (above == Py_None) {
        flow->trace = Py_NewRef(flow->span);
        flow->parent = Py_NewRef(Py_None);
    } else {
        flow->trace = Py_NewRef(PyTuple_GET_ITEM(above, 0));
        flow->parent = Py_NewRef(PyTuple_GET_ITEM(above, 1));
    }
    long long now = now_of(core);
    if (now == -1 && PyErr_Occurred()) {
        goto error;
    }
    flow->started = now;
    place = PyTuple_Pack(2, flow->trace, flow->span);
    PyObject *time = PyLong_FromLongLong(now), *counts_for = PyLong_FromLongLong(size), *kind = PyLong_FromLong(ENTER);
    PyObject *record = place && time && counts_for && kind ? PyTuple_New(12) : NULL;
    if (record != NULL) {
        PyObject_GC_UnTrack(record); /* at once: in 3.11 setting the current span may begin a collection, to which */
    } /* callbacks of the program's listen, and nobody may find it half-made */
    if (record == NULL || set_current(core, place) < 0) {
        Py_XDECREF(time);
        Py_XDECREF(counts_for);
        Py_XDECREF(kind);
        Py_XDECREF(record);
        goto error;
    }
    PyObject_GC_UnTrack(place);
    PyTuple_SET_ITEM(record, 0, kind);
    PyTuple_SET_ITEM(record, 1, Py_NewRef(self->index));
    PyTuple_SET_ITEM(record, 2, Py_NewRef(flow->span));
    PyTuple_SET_ITEM(record, 3, time);
    PyTuple_SET_ITEM(record, 4, Py_NewRef(me->id ? me->id : Py_None));
    PyTuple_SET_ITEM(record, 5, Py_NewRef(flow->task));
    PyTuple_SET_ITEM(record, 6, Py_NewRef(flow->trace));
    PyTuple_SET_ITEM(record, 7, Py_NewRef(flow->parent));
    PyTuple_SET_ITEM(record, 8, payload);
    PyTuple_SET_ITEM(record, 9, request ? request : Py_NewRef(Py_None));
    PyTuple_SET_ITEM(record, 10, Py_NewRef(names));
    PyTuple_SET_ITEM(record, 11, counts_for);
    payload = request = NULL;
    if (put_on_queue(core, record) < 0) {
        PyObject *error = raised_error();
        set_current(core, above);
        set_raised_error(error);
        goto error;
    }
    state->queued_bytes += size;
    flow->number = PyLong_AsLongLong(flow->span);
    Py_DECREF(place);
    return (PyObject *)flow;
error:
    Py_XDECREF(payload);
    Py_XDECREF(request);
    Py_XDECREF(place);
    Py_DECREF(flow);
    return NULL;
}

static PyObject *lost_call(Core *core)
{
    core->state->lost_calls++;
    core->state->lost_events += 2; /* its EXIT will not be recorded either */
    for (int i = 0; i < 2; i++) {
        PyObject *number = next_number(core);
        if (number == NULL) {
            return NULL;
        }
        Py_DECREF(number);
    }
    Py_RETURN_NONE;
}

/* 1: there is room; 0: there is none; -1: an exception. */
static int wait_for_room(Core *core)
{
    PyObject *answer = PyObject_CallMethod(core->recorder, "_wait_for_room", NULL);
    int has_room = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return has_room;
}

static PyObject *entered(Function *self, Thread *me, PyObject *above, PyObject *names, PyObject *values)
{
    Core *core = self->core;
    Counters *state = core->state;
    PyObject *entry = NULL;
    if (above == core->lost) {
        return lost_call(core);
    }
    if (above == core->skipped) {
        state->skipped_calls++;
        Py_RETURN_NONE;
    }
    if (above != Py_None && (!PyTuple_CheckExact(above) || PyTuple_GET_SIZE(above) != 2)) {
        PyErr_SetString(PyExc_TypeError, "the current span has to be a tuple of two"); /* whoever has set it */
        return NULL;
    }
    bool is_first = above == Py_None || PyTuple_GET_ITEM(above, 1) == Py_None;
    if (is_first) {
        double rate = self->rate == Py_None ? state->rate : PyFloat_AsDouble(self->rate);
        if (rate == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        if (above != Py_None || rate < 1.0 || (state->elsewhere != NULL && state->elsewhere != Py_None)) {
            entry = begun(self, above);
            if (entry == NULL) {
                return NULL;
            }
            if (entry == Py_None) {
                Py_DECREF(entry);
                state->skipped_calls++;
                return not_recorded(core, above, me, core->skipped);
            }
        }
    }
    Py_ssize_t waiting = PyObject_Size(core->queue);
    if (waiting >= state->look_at || state->queued_bytes >= state->full_at) {
        if (waiting >= state->wake_at) {
            if (state->rate < 0) { /* switched off in the midst of this trace */
                state->skipped_calls++;
                Py_XDECREF(entry);
                Py_RETURN_NONE;
            }
            if (!state->woken) {
                state->woken = 1;
                PyObject *done = called(state->wake, NULL);
                if (done == NULL) {
                    Py_XDECREF(entry);
                    return NULL;
                }
                Py_DECREF(done);
            }
        }
        if (waiting >= state->max_events || state->queued_bytes >= state->full_at) {
            int has_room = wait_for_room(core);
            if (has_room <= 0) {
                Py_XDECREF(entry);
                PyObject *done = has_room < 0 ? NULL : lost_call(core);
                Py_XDECREF(done);
                return done ? not_recorded(core, above, me, core->lost) : NULL;
            }
        }
    }
    PyObject *flow = recorded(self, me, above, entry, names, values);
    Py_XDECREF(entry);
    return flow;
}

/* At the recursion limit a call is left out, rather than recorded by halves: the queue is called a level down. */
static bool has_stack(void)
{
    PyThreadState *state = PyThreadState_Get();
#if PY_VERSION_HEX >= 0x030C0000
    int left = state->c_recursion_remaining;
#else
    int left = state->recursion_remaining;
#endif
    if (left > 2) {
        return true;
    }
    PyErr_SetString(PyExc_RecursionError, "maximum recursion depth exceeded in flowtrace");
    return false;
}

static PyObject *enter(Function *self, PyObject *names, PyObject *values)
{
    Core *core = self->core;
    PyObject *flow = NULL, *above;
    if (!has_stack()) {
        return NULL; /* of which the traced body knows what to make */
    }
    if (!PyTuple_CheckExact(names) || !PyTuple_CheckExact(values) ||
        PyTuple_GET_SIZE(names) != PyTuple_GET_SIZE(values)) {
        PyErr_SetString(PyExc_TypeError, "enter[names, values] takes two tuples of one length");
        return NULL;
    }
    if (!*(char *)core->here.buf) { /* a child that was forked past Python's hooks */
        PyObject *done = PyObject_CallMethod(core->recorder, "forked", NULL);
        if (done == NULL) {
            return failed(core);
        }
        Py_DECREF(done);
    }
    Thread *me = thread_of(core);
    if (me == NULL) {
        return failed(core);
    }
    if (me->busy) {
        core->state->suppressed_calls++;
        Py_RETURN_NONE;
    }
    Py_INCREF(me);
    me->busy = 1;
    Py_CLEAR(me->raised);
    above = current_of(core);
    if (above != NULL) {
        flow = entered(self, me, above, names, values);
        Py_DECREF(above);
    }
    if (flow == NULL) {
        flow = failed(core);
    }
    me->busy = 0;
    Py_DECREF(me);
    return flow;
}

/* The two ways of calling such a function: with names and values, and as a subscript of both. */
#define CALLED_BY(name, Type)                                                                                          \
    static PyObject *name##_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)                 \
    {                                                                                                                  \
        if (wants_frame()) {                                                                                           \
            return call_framed(self, args, flags);                                                                     \
        }                                                                                                              \
        if (PyVectorcall_NARGS(flags) != 2 || names != NULL) {                                                         \
            PyErr_SetString(PyExc_TypeError, "enter takes names and values");                                          \
            return NULL;                                                                                               \
        }                                                                                                              \
        return name((Type *)self, args[0], args[1]);                                                                   \
    }                                                                                                                  \
                                                                                                                       \
    static PyObject *name##_subscript(PyObject *self, PyObject *key)                                                   \
    {                                                                                                                  \
        if (wants_frame()) {                                                                                           \
            return subscript_framed(self, key);                                                                        \
        }                                                                                                              \
        if (!PyTuple_CheckExact(key) || PyTuple_GET_SIZE(key) != 2) {                                                  \
            PyErr_SetString(PyExc_TypeError, "enter takes names and values");                                          \
            return NULL;                                                                                               \
        }                                                                                                              \
        return name((Type *)self, PyTuple_GET_ITEM(key, 0), PyTuple_GET_ITEM(key, 1));                                 \
    }

CALLED_BY(enter, Function)

static PyMappingMethods enter_as_mapping = {.mp_subscript = enter_subscript};

static PyTypeObject EnterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Enter",
    .tp_basicsize = sizeof(Function),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "Called at the beginning of a traced call, with names and values of its arguments; gives its flow.",
    .tp_new = enter_new,
    .tp_dealloc = (destructor)function_dealloc,
    .tp_traverse = (traverseproc)function_traverse,
    .tp_clear = (inquiry)function_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Function, call),
    .tp_as_mapping = &enter_as_mapping,
    .tp_methods = function_methods,
    .tp_members = function_members,
    .tp_repr = (reprfunc)function_repr,
};

/* What the end of a call says: `payload`, a new reference, and what it counts for; -1: an exception. */
static int outcome_of(
    Function *self, Thread *me, PyObject *result, bool is_ended, bool is_ours, int *kind, PyObject **payload,
    long long *size)
{
    Core *core = self->core;
    PyObject *text = NULL;
    if (result == core->raised && !is_ended) {
        *kind = EXCEPTION;
        *payload = Py_NewRef(core->lost_exception);
        PyObject *error = PyErr_GetHandledException();
        if (error != NULL && (PyObject *)Py_TYPE(error) == PyExc_RecursionError) {
            Py_SETREF(*payload, Py_NewRef(core->lost_recursion_error)); /* there may be no stack */
        } else if (error != NULL && (PyObject *)Py_TYPE(error) == PyExc_MemoryError) {
            Py_SETREF(*payload, Py_NewRef(core->lost_memory_error)); /* or no memory */
        }
        text = PyObject_CallFunctionObjArgs(core->described, (PyObject *)me, error ? error : Py_None, NULL);
        Py_XDECREF(error);
        if (text == NULL || !PyBytes_CheckExact(text) || PyBytes_GET_SIZE(text) == 0) {
            Py_XDECREF(text);
            return text == NULL ? -1 : 0;
        }
    } else if (!self->takes) {
        *payload = Py_NewRef(core->not_captured);
        return 0;
    } else if (result == Py_None || is_ended || !is_ours) {
        *payload = Py_NewRef(core->no_result);
        return 0;
    } else {
        *payload = Py_NewRef(core->no_result);
        long long length = core->takes_scalar_results ? scalar_size(core, result, core->max_result) : -1;
        if (length >= 0) {
            Py_SETREF(*payload, Py_NewRef(result));
            *size = length + core->scalar_bytes;
            return 0;
        }
        text = length == -2 ? NULL : PyObject_CallOneArg(core->result, result);
        if (text == NULL || !PyBytes_CheckExact(text)) {
            if (text != NULL) {
                Py_DECREF(text);
                PyErr_SetString(PyExc_TypeError, "result() has to give bytes");
            }
            return -1;
        }
    }
    Py_SETREF(*payload, text);
    *size = PyBytes_GET_SIZE(text);
    return 0;
}

static PyObject *leave(
    Function *self, Flow *flow, PyObject *above, Thread *me, PyObject *result, PyObject *active_ns, PyObject *ended)
{
    Core *core = self->core;
    Counters *state = core->state;
    PyObject *payload = NULL, *seq = NULL;
    int kind = EXIT;
    long long size = 0, now = flow->started;
    char busy = me->busy;
    bool is_ours = flow->number >= state->first; /* else it was entered in the process that this one was forked from */
    int status = set_current(core, above);
    if (flow->number < 0) {
        return status < 0 ? NULL : Py_NewRef(Py_None);
    }
    Py_INCREF(me);
    if (status == 0) {
        now = now_of(core);
        status = now == -1 && PyErr_Occurred() ? -1 : 0;
    }
    if (status == 0) {
        me->busy = 1;
        status = outcome_of(self, me, result, ended != Py_None, is_ours, &kind, &payload, &size);
    } else {
        now = flow->started;
    }
    PyObject *error = status < 0 ? raised_error() : NULL;
    if (is_ours) {
        PyObject *numbers[5] = {NULL};
        seq = next_number(core);
        numbers[0] = PyLong_FromLong(kind);
        numbers[1] = PyLong_FromLongLong(now);
        numbers[2] = PyLong_FromLongLong(now - flow->started);
        numbers[3] = PyLong_FromLongLong(size);
        PyObject *record = seq && numbers[0] && numbers[1] && numbers[2] && numbers[3] ? PyTuple_New(14) : NULL;
        if (record != NULL) {
            PyTuple_SET_ITEM(record, 0, numbers[0]);
            PyTuple_SET_ITEM(record, 1, Py_NewRef(self->index));
            PyTuple_SET_ITEM(record, 2, seq);
            PyTuple_SET_ITEM(record, 3, numbers[1]);
            PyTuple_SET_ITEM(record, 4, Py_NewRef(me->id ? me->id : Py_None));
            PyTuple_SET_ITEM(record, 5, Py_NewRef(flow->task));
            PyTuple_SET_ITEM(record, 6, Py_NewRef(flow->trace));
            PyTuple_SET_ITEM(record, 7, Py_NewRef(flow->parent));
            PyTuple_SET_ITEM(record, 8, payload ? payload : Py_NewRef(core->no_result));
            PyTuple_SET_ITEM(record, 9, Py_NewRef(flow->span));
            PyTuple_SET_ITEM(record, 10, numbers[2]);
            PyTuple_SET_ITEM(record, 11, Py_NewRef(active_ns));
            PyTuple_SET_ITEM(record, 12, Py_NewRef(ended));
            PyTuple_SET_ITEM(record, 13, numbers[3]);
            payload = NULL;
        } else {
            Py_XDECREF(seq);
            for (int i = 0; i < 4; i++) {
                Py_XDECREF(numbers[i]);
            }
        }
        if (put_on_queue(core, record) == 0) {
            state->queued_bytes += size;
        } else if (error == NULL) {
            error = raised_error();
        } else {
            PyErr_Clear();
        }
    }
    Py_XDECREF(payload);
    me->busy = busy;
    Py_DECREF(me);
    if (error != NULL) {
        set_raised_error(error);
        return failed(core);
    }
    Py_RETURN_NONE;
}

static PyObject *leave_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (wants_frame()) {
        return call_framed(self, args, flags);
    }
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count < 2 || count > 4 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "leave takes a flow, a result, and of what was suspended two more");
        return NULL;
    }
    if (args[0] == Py_None) {
        Py_RETURN_NONE;
    }
    if (Py_TYPE(args[0]) != &FlowType) {
        PyErr_SetString(PyExc_TypeError, "leave takes a flow");
        return NULL;
    }
    Flow *flow = (Flow *)args[0];
    PyObject *active_ns = count > 2 ? args[2] : Py_None, *ended = count > 3 ? args[3] : Py_None;
    return leave((Function *)self, flow, flow->above, flow->thread, args[1], active_ns, ended);
}

static PyTypeObject LeaveType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Leave",
    .tp_basicsize = sizeof(Function),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "Called at the end of a traced call, with its flow and its result.",
    .tp_new = leave_new,
    .tp_dealloc = (destructor)function_dealloc,
    .tp_traverse = (traverseproc)function_traverse,
    .tp_clear = (inquiry)function_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Function, call),
    .tp_methods = function_methods,
    .tp_members = function_members,
    .tp_repr = (reprfunc)function_repr,
};

/* -- bodies that can be suspended --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Core *core;
    Flow *flow;
    PyObject *here, *outer; /* the current span of the body, and of what consumes it */
    long long paused_at, idle_ns;
    bool is_paused;
} Suspended;

static int suspended_traverse(Suspended *self, visitproc visit, void *arg)
{
    Py_VISIT(self->core);
    Py_VISIT(self->flow);
    Py_VISIT(self->here);
    Py_VISIT(self->outer);
    return 0;
}

static int suspended_clear(Suspended *self)
{
    return 0; /* a flow and an entry that close a circle are cleared there */
}

static void suspended_dealloc(Suspended *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->core);
    Py_XDECREF(self->flow);
    Py_XDECREF(self->here);
    Py_XDECREF(self->outer);
    PyObject_GC_Del(self);
}

static PyTypeObject SuspendedType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Suspended",
    .tp_basicsize = sizeof(Suspended),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "The flow of a body that can be suspended.",
    .tp_dealloc = (destructor)suspended_dealloc,
    .tp_traverse = (traverseproc)suspended_traverse,
    .tp_clear = (inquiry)suspended_clear,
};

static PyObject *pure_suspend, *pure_resumed; /* for what began in Python: set by `flowtrace.suspension` */

static PyObject *by_stand_in(PyObject *function, PyObject *flow)
{
    if (function == NULL) {
        PyErr_SetString(PyExc_TypeError, "nothing stands in: flowtrace.suspension is not imported");
        return NULL;
    }
    return PyObject_CallOneArg(function, flow);
}

static PyObject *suspend(PyObject *flow)
{
    if (flow == Py_None) {
        Py_RETURN_NONE;
    }
    if (Py_TYPE(flow) != &SuspendedType) {
        return by_stand_in(pure_suspend, flow);
    }
    Suspended *self = (Suspended *)flow;
    long long now = now_of(self->core);
    if (now == -1 && PyErr_Occurred()) {
        return NULL;
    }
    self->paused_at = now;
    self->is_paused = true;
    if (set_current(self->core, self->outer) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int go_on(Suspended *self)
{
    if (!self->is_paused) {
        return 0;
    }
    long long now = now_of(self->core);
    PyObject *outer = now == -1 && PyErr_Occurred() ? NULL : current_of(self->core);
    if (outer == NULL) {
        return -1;
    }
    self->idle_ns += now - self->paused_at;
    self->is_paused = false;
    Py_SETREF(self->outer, outer);
    return set_current(self->core, self->here);
}

static PyObject *resumed(PyObject *flow)
{
    if (flow == Py_None) {
        Py_RETURN_NONE;
    }
    if (Py_TYPE(flow) != &SuspendedType) {
        return by_stand_in(pure_resumed, flow);
    }
    return go_on((Suspended *)flow) < 0 ? NULL : Py_NewRef(Py_None);
}

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Function *inner; /* what any call calls */
    PyObject *module, *qualname, *ended; /* tells how a body ended that a GeneratorExit left, from its frame */
} Outer;

static int outer_traverse(Outer *self, visitproc visit, void *arg)
{
    Py_VISIT(self->inner);
    Py_VISIT(self->ended);
    return 0;
}

static int outer_clear(Outer *self)
{
    return 0;
}

static void outer_dealloc(Outer *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->inner);
    Py_XDECREF(self->module);
    Py_XDECREF(self->qualname);
    Py_XDECREF(self->ended);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *outer_reduce(Outer *self, PyObject *ignored)
{
    return Py_NewRef(self->qualname ? self->qualname : Py_None);
}

static PyMethodDef outer_methods[] = {
    {"__reduce__", (PyCFunction)outer_reduce, METH_NOARGS},
    {NULL},
};

static PyMemberDef outer_members[] = {
    {"__module__", T_OBJECT, offsetof(Outer, module)},
    {"__qualname__", T_OBJECT, offsetof(Outer, qualname)},
    {NULL},
};

static PyObject *outer_enter(Outer *self, PyObject *names, PyObject *values)
{
    PyObject *given = enter(self->inner, names, values);
    if (given == NULL || Py_TYPE(given) != &FlowType) {
        return given;
    }
    Flow *flow = (Flow *)given;
    Suspended *made = PyObject_GC_New(Suspended, &SuspendedType);
    PyObject *here = made ? current_of(self->inner->core) : NULL;
    if (made != NULL) {
        made->core = (Core *)Py_NewRef(self->inner->core);
        made->flow = flow;
        made->here = here;
        made->outer = Py_NewRef(flow->above);
        made->paused_at = made->idle_ns = 0;
        made->is_paused = false;
        if (here != NULL) {
            PyObject_GC_Track(made);
            return (PyObject *)made;
        }
        made->flow = NULL;
        Py_DECREF(made);
    }
    /* no memory is left: the flow goes, and with it the call, which is counted as one that signals have interrupted */
    set_current(self->inner->core, flow->above);
    Py_DECREF(flow);
    return NULL;
}

CALLED_BY(outer_enter, Outer)

static PyObject *outer_leave_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (wants_frame()) {
        return call_framed(self, args, flags);
    }
    if (PyVectorcall_NARGS(flags) != 2 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "leave takes a flow and a result");
        return NULL;
    }
    if (args[0] == Py_None) {
        Py_RETURN_NONE;
    }
    if (Py_TYPE(args[0]) != &SuspendedType) {
        PyErr_SetString(PyExc_TypeError, "leave takes the flow of a body that can be suspended");
        return NULL;
    }
    Suspended *suspended = (Suspended *)args[0];
    Function *inner = ((Outer *)self)->inner;
    Core *core = inner->core;
    PyObject *active_ns = NULL, *ended = NULL, *error = NULL;
    Thread *me = NULL;
    if (go_on(suspended) == 0 && (me = thread_of(core)) != NULL) {
        long long now = now_of(core);
        if (now != -1 || !PyErr_Occurred()) {
            active_ns = PyLong_FromLongLong(now - suspended->flow->started - suspended->idle_ns);
        }
        if (active_ns != NULL && args[1] == core->raised) {
            PyObject *handled = PyErr_GetHandledException();
            if (handled != NULL && (PyObject *)Py_TYPE(handled) == PyExc_GeneratorExit) {
                PyObject *frame = (PyObject *)PyEval_GetFrame();
                ended = frame ? PyObject_CallOneArg(((Outer *)self)->ended, frame) : NULL;
            }
            Py_XDECREF(handled);
        }
    }
    if (PyErr_Occurred()) {
        error = raised_error();
    }
    if (me == NULL) {
        me = suspended->flow->thread;
    }
    PyObject *done = leave(
        inner, suspended->flow, suspended->outer, me, args[1], active_ns ? active_ns : Py_None,
        ended ? ended : Py_None);
    Py_XDECREF(active_ns);
    Py_XDECREF(ended);
    if (error != NULL) {
        if (done == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(done);
        set_raised_error(error);
        return NULL;
    }
    return done;
}

static int outer_made(Outer *self, PyObject *args, PyTypeObject *type, vectorcallfunc call)
{
    PyObject *inner, *ended = NULL;
    if (self->inner != NULL || !PyArg_ParseTuple(args, type == &LeaveType ? "O!O" : "O!", type, &inner, &ended)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "is made once");
        }
        return -1;
    }
    self->inner = (Function *)Py_NewRef(inner);
    self->ended = Py_XNewRef(ended);
    self->call = call;
    return 0;
}

static int outer_enter_init(Outer *self, PyObject *args, PyObject *kwargs)
{
    return outer_made(self, args, &EnterType, outer_enter_call);
}

MADE_BY(outer_enter_new, outer_enter_init, Outer)

static int outer_leave_init(Outer *self, PyObject *args, PyObject *kwargs)
{
    return outer_made(self, args, &LeaveType, outer_leave_call);
}

MADE_BY(outer_leave_new, outer_leave_init, Outer)

/* What is called where a body is suspended and where it goes on: no built-in functions, of which profilers are told. */
static PyObject *suspend_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (wants_frame()) {
        return call_framed(self, args, flags);
    }
    if (PyVectorcall_NARGS(flags) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "suspend takes a flow");
        return NULL;
    }
    return suspend(args[0]);
}

static PyObject *resumed_call(PyObject *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (wants_frame()) {
        return call_framed(self, args, flags);
    }
    if (PyVectorcall_NARGS(flags) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "resumed takes a flow");
        return NULL;
    }
    return resumed(args[0]);
}

static PyTypeObject StepType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Step",
    .tp_basicsize = sizeof(Outer),
    .tp_flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Called with a flow, before a body is suspended or when it goes on.",
    .tp_dealloc = (destructor)outer_dealloc,
    .tp_traverse = (traverseproc)outer_traverse,
    .tp_clear = (inquiry)outer_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Outer, call),
    .tp_methods = outer_methods,
    .tp_members = outer_members,
};

static int add_step(PyObject *module, const char *name, vectorcallfunc call)
{
    Outer *step = (Outer *)StepType.tp_alloc(&StepType, 0);
    if (step == NULL) {
        return -1;
    }
    step->call = call;
    step->qualname = PyUnicode_FromString(name);
    int status = step->qualname ? PyModule_AddObjectRef(module, name, (PyObject *)step) : -1;
    Py_DECREF(step);
    return status;
}

static PyMappingMethods outer_as_mapping = {.mp_subscript = outer_enter_subscript};

static PyTypeObject SuspendableEnterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.SuspendableEnter",
    .tp_basicsize = sizeof(Outer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "As Enter, for a body that can be suspended.",
    .tp_new = outer_enter_new,
    .tp_dealloc = (destructor)outer_dealloc,
    .tp_traverse = (traverseproc)outer_traverse,
    .tp_clear = (inquiry)outer_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Outer, call),
    .tp_as_mapping = &outer_as_mapping,
    .tp_methods = outer_methods,
    .tp_members = outer_members,
};

static PyTypeObject SuspendableLeaveType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.SuspendableLeave",
    .tp_basicsize = sizeof(Outer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "As Leave, for a body that can be suspended.",
    .tp_new = outer_leave_new,
    .tp_dealloc = (destructor)outer_dealloc,
    .tp_traverse = (traverseproc)outer_traverse,
    .tp_clear = (inquiry)outer_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Outer, call),
    .tp_methods = outer_methods,
    .tp_members = outer_members,
};

/* -- lines -------------------------------------------------------------------------------------------------------- */

typedef struct {
    char *text;
    size_t size, room;
} Buffer;

static int grow(Buffer *buffer, size_t more)
{
    size_t room = buffer->room * 2 + more + 512;
    char *text = PyMem_Realloc(buffer->text, room);
    if (text == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    buffer->text = text;
    buffer->room = room;
    return 0;
}

/* Room for so many more bytes, or NULL with MemoryError. */
static inline char *room_in(Buffer *buffer, size_t more)
{
    if ((buffer->text == NULL || buffer->room - buffer->size < more) && grow(buffer, more) < 0) {
        return NULL;
    }
    return buffer->text + buffer->size;
}

static inline int put(Buffer *buffer, const char *text, size_t size)
{
    char *end = room_in(buffer, size);
    if (end == NULL) {
        return -1;
    }
    memcpy(end, text, size);
    buffer->size += size;
    return 0;
}

static char two_digits[100][2], two_hex_digits[256][2];

typedef struct {
    unsigned char size;
    char text[7];
} Escape;

/* What stands for a character in a JSON string, as orjson writes it, and in such a string inside another one. */
static Escape once[256], twice[256];

static void fill_tables(void)
{
    static const char short_forms[][2] = {
        {'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'},
    };
    for (int i = 0; i < 256; i++) {
        two_hex_digits[i][0] = "0123456789abcdef"[i >> 4];
        two_hex_digits[i][1] = "0123456789abcdef"[i & 15];
        once[i] = i < 0x20 ? (Escape){6, {'\\', 'u', '0', '0', two_hex_digits[i][0], two_hex_digits[i][1]}}
                           : (Escape){1, {(char)i}};
    }
    for (size_t i = 0; i < sizeof(short_forms) / sizeof(short_forms[0]); i++) {
        once[(unsigned char)short_forms[i][0]] = (Escape){2, {'\\', short_forms[i][1]}};
    }
    for (int i = 0; i < 256; i++) {
        twice[i].size = 0;
        for (int j = 0; j < once[i].size; j++) {
            const Escape *inner = &once[(unsigned char)once[i].text[j]];
            memcpy(twice[i].text + twice[i].size, inner->text, inner->size);
            twice[i].size += inner->size;
        }
    }
    for (int i = 0; i < 100; i++) {
        two_digits[i][0] = '0' + i / 10;
        two_digits[i][1] = '0' + i % 10;
    }
}

#define PUT(buffer, literal) put(buffer, literal, sizeof(literal) - 1)

static int put_bytes(Buffer *buffer, PyObject *bytes)
{
    if (!PyBytes_CheckExact(bytes)) {
        PyErr_SetString(PyExc_TypeError, "bytes are wanted in a line");
        return -1;
    }
    return put(buffer, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
}

static int put_number(Buffer *buffer, long long number)
{
    char digits[24], *first = digits + sizeof(digits);
    unsigned long long rest = number < 0 ? 0 - (unsigned long long)number : (unsigned long long)number;
    while (rest >= 100) {
        first -= 2;
        memcpy(first, two_digits[rest % 100], 2);
        rest /= 100;
    }
    if (rest >= 10) {
        first -= 2;
        memcpy(first, two_digits[rest], 2);
    } else {
        *--first = '0' + rest;
    }
    if (number < 0) {
        *--first = '-';
    }
    return put(buffer, first, digits + sizeof(digits) - first);
}

static int put_long(Buffer *buffer, PyObject *number)
{
    int overflow;
    long long value = PyLong_Check(number) ? PyLong_AsLongLongAndOverflow(number, &overflow) : (overflow = 1);
    if (!overflow) {
        return put_number(buffer, value);
    }
    PyObject *text = PyObject_Str(number);
    int status = text ? put(buffer, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text)) : -1;
    Py_XDECREF(text);
    return status;
}

static int put_hex(Buffer *buffer, uint64_t number)
{
    char *end = room_in(buffer, 16);
    if (end == NULL) {
        return -1;
    }
    for (int i = 14; i >= 0; i -= 2, number >>= 8) {
        memcpy(end + i, two_hex_digits[number & 255], 2);
    }
    buffer->size += 16;
    return 0;
}

/* The inside of a JSON string. */
static int put_escaped(Buffer *buffer, const char *text, size_t size, const Escape escapes[256])
{
    char *end = room_in(buffer, sizeof(Escape) * size);
    if (end == NULL) {
        return -1;
    }
    char *start = end;
    for (size_t i = 0; i < size; i++) {
        const Escape *escape = &escapes[(unsigned char)text[i]];
        memcpy(end, escape->text, sizeof(escape->text)); /* of one size, which is faster than the right size */
        end += escape->size;
    }
    buffer->size += end - start;
    return 0;
}

typedef struct {
    PyObject_HEAD
    PyObject *epochs, *ending_of, *static_of, *keys_of, *dumps, *statement; /* in Python */
    PyObject *parts, *endings, *keys; /* what they gave: by target, by task, by the address of names */
    PyObject *epoch; /* the latest, taken apart: */
    long long epoch_first;
    uint64_t epoch_key;
    char epoch_prefix[16];
    long long offset_ns, max_remembered;
    bool values_as_text;
    Buffer spare;
} Lines;

/* One call: while it calls Python, another thread may make lines as well. */
typedef struct {
    Lines *lines;
    Buffer out;
} Writer;

static int lines_traverse(Lines *self, visitproc visit, void *arg)
{
    Py_VISIT(self->epochs);
    Py_VISIT(self->ending_of);
    Py_VISIT(self->static_of);
    Py_VISIT(self->keys_of);
    Py_VISIT(self->dumps);
    Py_VISIT(self->statement);
    Py_VISIT(self->parts);
    Py_VISIT(self->endings);
    Py_VISIT(self->keys);
    return 0;
}

static int lines_clear(Lines *self)
{
    Py_CLEAR(self->ending_of);
    Py_CLEAR(self->static_of);
    Py_CLEAR(self->keys_of);
    Py_CLEAR(self->statement);
    return 0;
}

static void lines_dealloc(Lines *self)
{
    PyObject_GC_UnTrack(self);
    lines_clear(self);
    Py_XDECREF(self->epochs);
    Py_XDECREF(self->dumps);
    Py_XDECREF(self->parts);
    Py_XDECREF(self->endings);
    Py_XDECREF(self->keys);
    Py_XDECREF(self->epoch);
    PyMem_Free(self->spare.text);
    Py_TYPE(self)->tp_free(self);
}

static int lines_init(Lines *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "epochs", "ending_of", "static_of", "keys_of", "dumps", "statement", "offset_ns", "values_as_text",
        "max_remembered", NULL,
    };
    PyObject *epochs, *ending_of, *static_of, *keys_of, *dumps, *statement;
    int values_as_text;
    if (self->epochs != NULL) {
        PyErr_SetString(PyExc_TypeError, "is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!OOOOOLpL:Lines", names, &PyList_Type, &epochs, &ending_of, &static_of, &keys_of, &dumps,
            &statement, &self->offset_ns, &values_as_text, &self->max_remembered)) {
        return -1;
    }
    self->parts = PyDict_New();
    self->endings = PyDict_New();
    self->keys = PyDict_New();
    if (self->parts == NULL || self->endings == NULL || self->keys == NULL) {
        return -1;
    }
    self->epochs = Py_NewRef(epochs);
    self->ending_of = Py_NewRef(ending_of);
    self->static_of = Py_NewRef(static_of);
    self->keys_of = Py_NewRef(keys_of);
    self->dumps = Py_NewRef(dumps);
    self->statement = Py_NewRef(statement);
    self->values_as_text = values_as_text;
    return 0;
}

MADE_BY(lines_new, lines_init, Lines)

/* What a function of Python's has given for a key, or gives now: a new reference. */
static PyObject *remembered(Lines *self, PyObject *memory, PyObject *function, PyObject *key)
{
    PyObject *found = PyDict_GetItemWithError(memory, key);
    if (found != NULL || PyErr_Occurred()) {
        return Py_XNewRef(found);
    }
    PyObject *made = called(function, key);
    if (made == NULL) {
        return NULL;
    }
    if (PyDict_GET_SIZE(memory) >= self->max_remembered) {
        PyDict_Clear(memory);
    }
    if (PyDict_SetItem(memory, key, made) < 0) {
        Py_CLEAR(made);
    }
    return made;
}

/* The key of an epoch and the first 16 digits of its traces, of the epoch in which `number` was given. */
static int epoch_of(Lines *self, long long number, uint64_t *key, char *prefix)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->epochs); i++) {
        PyObject *epoch = PyList_GET_ITEM(self->epochs, i);
        if (i > 0 || epoch != self->epoch) {
            unsigned long long made;
            const char *digits;
            Py_ssize_t size;
            long long first;
            if (!PyArg_ParseTuple(epoch, "LKs#", &first, &made, &digits, &size)) {
                return -1;
            }
            if (size != 16) {
                PyErr_SetString(PyExc_ValueError, "a trace begins with 16 digits");
                return -1;
            }
            if (i == 0) {
                Py_XSETREF(self->epoch, Py_NewRef(epoch));
                self->epoch_first = first;
                self->epoch_key = made;
                memcpy(self->epoch_prefix, digits, 16);
            } else if (number >= first) {
                *key = made;
                memcpy(prefix, digits, 16);
                return 0;
            }
        }
        if (i == 0 && number >= self->epoch_first) {
            *key = self->epoch_key;
            memcpy(prefix, self->epoch_prefix, 16);
            return 0;
        }
    }
    PyErr_SetString(PyExc_LookupError, "a number from before the first epoch");
    return -1;
}

static uint64_t mixed(long long number, uint64_t key)
{
    uint64_t id = (uint64_t)number * 0x9E3779B97F4A7C15u + key; /* see `events.Ids` */
    return id ? id : 1;
}

/* An id in quotes: of a span, or of a trace; one that came from elsewhere is a text already. */
static int put_id(Writer *to, PyObject *number, bool is_trace)
{
    Buffer *out = &to->out;
    if (PyUnicode_CheckExact(number)) {
        Py_ssize_t size;
        const char *text = PyUnicode_AsUTF8AndSize(number, &size);
        return text == NULL || PUT(out, "\"") < 0 || put(out, text, size) < 0 || PUT(out, "\"") < 0 ? -1 : 0;
    }
    char prefix[16];
    uint64_t key;
    long long value = PyLong_AsLongLong(number);
    if ((value == -1 && PyErr_Occurred()) || epoch_of(to->lines, value, &key, prefix) < 0 || PUT(out, "\"") < 0 ||
        (is_trace && put(out, prefix, 16) < 0)) {
        return -1;
    }
    return put_hex(out, mixed(value, key)) < 0 || PUT(out, "\"") < 0 ? -1 : 0;
}

/* A scalar as JSON, or as what it is in a JSON string. */
static int put_scalar(Writer *to, PyObject *scalar)
{
    Buffer *out = &to->out;
    if (PyUnicode_CheckExact(scalar) && PyUnicode_IS_ASCII(scalar)) {
        bool is_inside = to->lines->values_as_text;
        const char *quote = is_inside ? "\\\"" : "\"";
        return put(out, quote, 1 + is_inside) < 0 ||
                       put_escaped(
                           out, PyUnicode_DATA(scalar), PyUnicode_GET_LENGTH(scalar), is_inside ? twice : once) < 0 ||
                       put(out, quote, 1 + is_inside) < 0
                   ? -1
                   : 0;
    }
    if (PyLong_CheckExact(scalar)) {
        return put_long(out, scalar);
    }
    if (scalar == Py_None) {
        return PUT(out, "null");
    }
    if (scalar == Py_True) {
        return PUT(out, "true");
    }
    if (scalar == Py_False) {
        return PUT(out, "false");
    }
    PyObject *text = called(to->lines->dumps, scalar); /* a float: its shortest digits */
    int status = text ? put_bytes(out, text) : -1;
    Py_XDECREF(text);
    return status;
}

/* Arguments that were queued as they are, as the members of a JSON object. */
static int put_arguments(Writer *to, PyObject *names, PyObject *values)
{
    Lines *self = to->lines;
    PyObject *address = PyLong_FromVoidPtr(names);
    if (address == NULL) {
        return -1;
    }
    PyObject *keys = PyDict_GetItemWithError(self->keys, address); /* names, and a key for each: so they stay alive */
    if (keys == NULL) {
        PyObject *made = PyErr_Occurred() ? NULL : called(self->keys_of, names);
        if (made != NULL && PyDict_GET_SIZE(self->keys) >= self->max_remembered) {
            PyDict_Clear(self->keys);
        }
        if (made == NULL || PyDict_SetItem(self->keys, address, made) < 0) {
            Py_XDECREF(made);
            Py_DECREF(address);
            return -1;
        }
        keys = made;
    } else {
        Py_INCREF(keys);
    }
    Py_DECREF(address);
    Py_ssize_t count = PyTuple_GET_SIZE(values);
    int status = PUT(&to->out, "{");
    if (!PyTuple_CheckExact(keys) || PyTuple_GET_SIZE(keys) != count + 1) {
        PyErr_SetString(PyExc_TypeError, "a name for each value is wanted");
        status = -1;
    }
    for (Py_ssize_t i = 0; status == 0 && i < count; i++) {
        if ((i > 0 && PUT(&to->out, ",") < 0) || put_bytes(&to->out, PyTuple_GET_ITEM(keys, i + 1)) < 0 ||
            put_scalar(to, PyTuple_GET_ITEM(values, i)) < 0) {
            status = -1;
        }
    }
    Py_DECREF(keys);
    return status < 0 ? -1 : PUT(&to->out, "}");
}

/* Arguments or a result, as JSON or as a JSON string of it. */
static int put_payload(Writer *to, PyObject *payload, PyObject *names, bool is_result)
{
    Buffer *out = &to->out;
    bool is_inside = to->lines->values_as_text;
    if (!PyBytes_CheckExact(payload)) {
        return (is_inside && PUT(out, "\"") < 0) ||
                       (names ? put_arguments(to, names, payload) : put_scalar(to, payload)) < 0 ||
                       (is_inside && PUT(out, "\"") < 0)
                   ? -1
                   : 0;
    }
    const char *text = PyBytes_AS_STRING(payload);
    size_t size = PyBytes_GET_SIZE(payload);
    if (size == 0) {
        return PUT(out, "null");
    }
    if (!is_inside) {
        return put(out, text, size);
    }
    if (is_result && size == 4 && memcmp(text, "null", 4) == 0) {
        return PUT(out, "\"void\"");
    }
    return PUT(out, "\"") < 0 || put_escaped(out, text, size, once) < 0 || PUT(out, "\"") < 0 ? -1 : 0;
}

static long long floor_of(long long number, long long by)
{
    return number / by - (number % by < 0);
}

static int put_call(Writer *to, PyObject *record, long kind, PyObject *parts, PyObject *ending)
{
    Buffer *out = &to->out;
    PyObject *span = PyTuple_GET_ITEM(record, kind == ENTER ? 2 : 9), *parent = PyTuple_GET_ITEM(record, 7);
    if (!PyTuple_CheckExact(parts) || PyTuple_GET_SIZE(parts) != 2) {
        PyErr_SetString(PyExc_TypeError, "a function is described by two texts");
        return -1;
    }
    long long time_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(record, 3));
    if (time_ns == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (PUT(out, "{\"timestamp\":") < 0 || put_number(out, floor_of(time_ns + to->lines->offset_ns, 1000000)) < 0 ||
        (kind == ENTER       ? PUT(out, ",\"event\":\"ENTER\",\"thread\":\"")
         : kind == EXCEPTION ? PUT(out, ",\"event\":\"EXCEPTION\",\"thread\":\"")
                             : PUT(out, ",\"event\":\"EXIT\",\"thread\":\"")) < 0 ||
        put_long(out, PyTuple_GET_ITEM(record, 4)) < 0 || PUT(out, "\"") < 0 ||
        put_bytes(out, PyTuple_GET_ITEM(parts, 0)) < 0) {
        return -1;
    }
    PyObject *payload = PyTuple_GET_ITEM(record, 8);
    if (kind == ENTER) {
        PyObject *names = PyTuple_CheckExact(payload) ? PyTuple_GET_ITEM(record, 10) : NULL;
        PyObject *request = PyTuple_GET_ITEM(record, 9);
        if (PUT(out, "\"args\":") < 0 || put_payload(to, payload, names, false) < 0 ||
            put_bytes(out, PyTuple_GET_ITEM(parts, 1)) < 0) {
            return -1;
        }
        if (PyBytes_CheckExact(request) && PyBytes_GET_SIZE(request) > 0 &&
            (PUT(out, ",\"request\":") < 0 || put_bytes(out, request) < 0)) {
            return -1;
        }
    } else {
        long long took_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(record, 10));
        if ((took_ns == -1 && PyErr_Occurred()) ||
            (kind == EXCEPTION ? PUT(out, "\"exception\":") < 0 || put_bytes(out, payload) < 0
                               : PUT(out, "\"result\":") < 0 || put_payload(to, payload, NULL, true) < 0) ||
            PUT(out, ",\"durationMicros\":") < 0 || put_number(out, floor_of(took_ns, 1000)) < 0 ||
            PUT(out, ",\"durationMillis\":") < 0 || put_number(out, floor_of(took_ns, 1000000)) < 0 ||
            put_bytes(out, PyTuple_GET_ITEM(parts, 1)) < 0) {
            return -1;
        }
        PyObject *active = PyTuple_GET_ITEM(record, 11), *ended = PyTuple_GET_ITEM(record, 12);
        if (active != Py_None) {
            long long active_ns = PyLong_AsLongLong(active);
            if ((active_ns == -1 && PyErr_Occurred()) || PUT(out, ",\"activeMicros\":") < 0 ||
                put_number(out, floor_of(active_ns, 1000)) < 0) {
                return -1;
            }
        }
        if (ended != Py_None) {
            Py_ssize_t size;
            const char *text = PyUnicode_AsUTF8AndSize(ended, &size);
            if (text == NULL || PUT(out, ",\"ended\":\"") < 0 || put(out, text, size) < 0 || PUT(out, "\"") < 0) {
                return -1;
            }
        }
    }
    return PUT(out, ",\"traceId\":") < 0 || put_id(to, PyTuple_GET_ITEM(record, 6), true) < 0 ||
                   PUT(out, ",\"spanId\":") < 0 || put_id(to, span, false) < 0 || PUT(out, ",\"parentId\":") < 0 ||
                   (parent == Py_None ? PUT(out, "null") : put_id(to, parent, false)) < 0 ||
                   PUT(out, ",\"seq\":") < 0 || put_long(out, PyTuple_GET_ITEM(record, 2)) < 0 ||
                   put_bytes(out, ending) < 0
               ? -1
               : 0;
}

static int put_line(Writer *to, PyObject *record)
{
    Buffer *out = &to->out;
    if (!PyTuple_CheckExact(record) || PyTuple_GET_SIZE(record) < 7) {
        PyErr_SetString(PyExc_TypeError, "a record is wanted");
        return -1;
    }
    long kind = PyLong_AsLong(PyTuple_GET_ITEM(record, 0));
    if (kind == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (kind == STATEMENT) {
        PyObject *text = called(to->lines->statement, record);
        int status = text ? put_bytes(out, text) : -1;
        Py_XDECREF(text);
        return status;
    }
    if (PyTuple_GET_SIZE(record) != (kind == ENTER ? 12 : 14)) {
        PyErr_SetString(PyExc_TypeError, "a record has 12 or 14 parts");
        return -1;
    }
    Lines *self = to->lines;
    PyObject *parts = remembered(self, self->parts, self->static_of, PyTuple_GET_ITEM(record, 1));
    PyObject *ending = parts ? remembered(self, self->endings, self->ending_of, PyTuple_GET_ITEM(record, 5)) : NULL;
    int status = ending ? put_call(to, record, kind, parts, ending) : -1;
    Py_XDECREF(parts);
    Py_XDECREF(ending);
    return status;
}
static Writer begin_writing(Lines *self)
{
    Writer to = {self, self->spare};
    self->spare = (Buffer){NULL, 0, 0};
    to.out.size = 0;
    return to;
}

static void end_writing(Writer *to)
{
    Buffer *spare = &to->lines->spare;
    if (spare->text != NULL || to->out.room > 1 << 20) { /* another's, or of a batch as few are */
        PyMem_Free(to->out.text);
    } else {
        *spare = to->out;
    }
}

static PyObject *lines_line(Lines *self, PyObject *record)
{
    Writer to = begin_writing(self);
    PyObject *line = put_line(&to, record) < 0 ? NULL : PyBytes_FromStringAndSize(to.out.text, to.out.size);
    end_writing(&to);
    return line;
}

/* All lines of a list of records, and how many of these are ENTERs, how many EXITs or EXCEPTIONs. */
static PyObject *lines_body(Lines *self, PyObject *records)
{
    if (!PyList_CheckExact(records)) {
        PyErr_SetString(PyExc_TypeError, "a list of records is wanted");
        return NULL;
    }
    long long enters = 0, ends = 0;
    int status = 0;
    Writer to = begin_writing(self);
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(records); i++) {
        PyObject *record = Py_NewRef(PyList_GET_ITEM(records, i));
        status = put_line(&to, record);
        if (status == 0) {
            long kind = PyLong_AsLong(PyTuple_GET_ITEM(record, 0));
            enters += kind == ENTER;
            ends += kind == EXIT || kind == EXCEPTION;
        }
        Py_DECREF(record);
        status = status < 0 ? -1 : PUT(&to.out, "\n");
    }
    PyObject *body = status < 0 ? NULL : PyBytes_FromStringAndSize(to.out.text, to.out.size);
    end_writing(&to);
    return body ? Py_BuildValue("NLL", body, enters, ends) : NULL;
}

static PyMethodDef lines_methods[] = {
    {"line", (PyCFunction)lines_line, METH_O, "The JSON object of a record, without a newline."},
    {"body", (PyCFunction)lines_body, METH_O, "The lines of records, how many begin calls and how many end some."},
    {NULL},
};

static PyTypeObject LinesType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "flowtrace._native.Lines",
    .tp_basicsize = sizeof(Lines),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Makes JSON lines of records.",
    .tp_new = lines_new,
    .tp_dealloc = (destructor)lines_dealloc,
    .tp_traverse = (traverseproc)lines_traverse,
    .tp_clear = (inquiry)lines_clear,
    .tp_methods = lines_methods,
};

/* -- what the dispatcher counts ----------------------------------------------------------------------------------- */

static PyObject *size_of(PyObject *module, PyObject *records)
{
    long long size = 0;
    if (!PyList_CheckExact(records)) {
        PyErr_SetString(PyExc_TypeError, "a list of records is wanted");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(records); i++) {
        PyObject *record = PyList_GET_ITEM(records, i);
        if (!PyTuple_CheckExact(record) || PyTuple_GET_SIZE(record) == 0) {
            PyErr_SetString(PyExc_TypeError, "a record is wanted");
            return NULL;
        }
        size += PyLong_AsLongLong(PyTuple_GET_ITEM(record, PyTuple_GET_SIZE(record) - 1));
    }
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(size);
}

static PyObject *stand_in(PyObject *module, PyObject *args)
{
    PyObject *first, *second;
    if (!PyArg_ParseTuple(args, "OO:stand_in", &first, &second)) {
        return NULL;
    }
    Py_XSETREF(pure_suspend, Py_NewRef(first));
    Py_XSETREF(pure_resumed, Py_NewRef(second));
    Py_RETURN_NONE;
}

static PyObject *frame(PyObject *module, PyObject *args)
{
    PyObject *first, *second;
    if (!PyArg_ParseTuple(args, "OO:frame", &first, &second)) {
        return NULL;
    }
    Py_XSETREF(framed_call, Py_NewRef(first));
    Py_XSETREF(framed_subscript, Py_NewRef(second));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"frame", frame, METH_VARARGS, "What to be called by while tracemalloc counts: as a function, and as a subscript."},
    {"size_of", size_of, METH_O, "What a list of records counts for on the queue."},
    {"stand_in", stand_in, METH_VARARGS, "What to call for flows of the functions in Python: suspend, and resumed."},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "flowtrace._native",
    .m_doc = "The hot paths of flowtrace in C.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    static struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {
        {"Counters", &CountersType}, {"Thread", &ThreadType}, {"Core", &CoreType}, {"Flow", &FlowType},
        {"Enter", &EnterType}, {"Leave", &LeaveType}, {"Suspended", &SuspendedType},
        {"SuspendableEnter", &SuspendableEnterType}, {"SuspendableLeave", &SuspendableLeaveType}, {"Lines", &LinesType},
    };
    PyObject *module = PyModule_Create(&definition);
    fill_tables();
    for (size_t i = 0; module != NULL && i < sizeof(types) / sizeof(types[0]); i++) {
        if (PyType_Ready(types[i].type) < 0 ||
            PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0) {
            Py_CLEAR(module);
        }
    }
    if (module != NULL && (PyType_Ready(&StepType) < 0 || add_step(module, "native_suspend", suspend_call) < 0 ||
                           add_step(module, "native_resumed", resumed_call) < 0)) {
        Py_CLEAR(module);
    }
    return module;
}
