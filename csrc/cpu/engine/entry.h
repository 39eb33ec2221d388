// The two entry points every op file defines for its instruction set, from one templated body.
#pragma once

#include "engine/parallel.h"
#include "lightops/common.h"

// Defines <op>_workspace and <op>_cpu in the ISA's namespace; once/dispatch.cpp selects between them. The op file
// provides `template <class C> struct Body { explicit Body(const Params&); int64_t workspace() const; void run(); }`.
#define LIGHTOPS_CPU_OP(op, Params) LIGHTOPS_CPU_OP_AS(op, Params, Body)

// The same for an op whose weights may be packed in pairs of bfloat16 (pack.h): its Body<E> also takes bf16 for what the
// products read. The bindings turn pairs away where no product reads them.
#if LIGHTOPS_PAIRS
#define LIGHTOPS_CPU_OP_PAIRS(op, Params)                       \
  int64_t op##_workspace(const Params& p) {                     \
    return p.pairs                ? Body<bf16>(p).workspace()   \
           : p.type == DType::f64 ? Body<double>(p).workspace() \
                                  : Body<float>(p).workspace(); \
  }                                                             \
  Status op##_cpu(const Params& p) {                            \
    if (p.pairs) Body<bf16>(p).run();                           \
    else if (p.type == DType::f64) Body<double>(p).run();       \
    else Body<float>(p).run();                                  \
    return Status::ok;                                          \
  }
#else
#define LIGHTOPS_CPU_OP_PAIRS(op, Params) LIGHTOPS_CPU_OP(op, Params)
#endif

// The same for a file with several ops, each with a body of its own name.
#define LIGHTOPS_CPU_OP_AS(op, Params, Body)                                                \
  int64_t op##_workspace(const Params& p) {                                                 \
    return p.type == DType::f64 ? Body<double>(p).workspace() : Body<float>(p).workspace(); \
  }                                                                                         \
  Status op##_cpu(const Params& p) {                                                        \
    if (p.type == DType::f64) Body<double>(p).run();                                        \
    else Body<float>(p).run();                                                              \
    return Status::ok;                                                                      \
  }
