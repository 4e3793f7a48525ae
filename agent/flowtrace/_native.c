/* What of flowtrace runs in C, where it could be compiled: nothing yet. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static int
execute(PyObject *module)
{
    return PyModule_AddIntConstant(module, "ABI", 1);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "flowtrace._native",
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
