#include <ATen/Parallel.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/headeronly/version.h>

#include <iostream>

#include <dlfcn.h>

#include "fpsa/app/bench_peer.h"
#include "fpsa/app/failure.h"
#include "fpsa/io/json.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fpsa::app::bench {
namespace {

using nlohmann::json;

// True when MKL's vendor check is the one of the preloaded library.
bool vendor_check_is_ours() {
  void* function = dlsym(RTLD_DEFAULT, "mkl_serv_intel_cpu_true");
  Dl_info info = {};
  return function && dladdr(function, &info) && info.dli_fname &&
         std::string_view(info.dli_fname).find("libfpsa_mkl_vendor") != std::string_view::npos;
}

// One call that is ready to run.
struct Prepared {
  std::function<void()> run;
  at::Tensor out;  // [B,H,L,D], forward only
};

Prepared prepare(const json& request) {
  const auto grid = request.at("grid").get<std::vector<int64_t>>();
  const Shape shape{{grid.at(0), grid.at(1), grid.at(2)}, request.at("heads"), request.at("dim")};
  const bool heads_first = request.at("heads_first"), backward = request.at("backward");
  const auto arranged = [&](const at::Tensor& x) {
    const auto view = x.transpose(1, 2);
    return heads_first ? view.contiguous() : view;
  };
  auto [q, k, v] = make_inputs(shape);
  q = arranged(q), k = arranged(k), v = arranged(v);
  Prepared prepared;
  if (!backward) {
    prepared.run = [q, k, v] {
      const at::NoGradGuard no_gradients;
      at::scaled_dot_product_attention(q, k, v);
    };
    const at::NoGradGuard no_gradients;
    prepared.out = at::scaled_dot_product_attention(q, k, v);
    return prepared;
  }
  for (auto* x : {&q, &k, &v})
    *x = x->detach().requires_grad_();
  const auto out = at::scaled_dot_product_attention(q, k, v);
  const auto upstream = v.detach();  // of the output's shape, and normal too
  prepared.run = [q, k, v, out, upstream] {
    torch::autograd::grad({out}, {q, k, v}, {upstream}, /*retain_graph=*/true);
  };
  return prepared;
}

// Rows of head 0 of a [B,H,L,D] tensor.
json rows_of_output(const at::Tensor& out, Rows rows) {
  const auto values = rows_of(out.transpose(1, 2), rows).to(at::kDouble).contiguous();
  return std::vector<double>(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
}

json answer(const json& request, std::vector<Prepared>& calls) {
  if (request.contains("release")) {
    calls.clear();
    return json::object();
  }
  if (request.contains("prepare")) {
    auto prepared = prepare(request["prepare"]);
    json reply = {{"id", calls.size()}};
    if (prepared.out.defined())
      reply["out"] = rows_of_output(prepared.out, {request["prepare"].at("rows").get<std::vector<int64_t>>(), {}});
    prepared.out.reset();
    calls.push_back(std::move(prepared));
    return reply;
  }
  const auto& call = calls.at(request.at("sample").get<size_t>());
  const Sample sample = time_calls(request.at("repeats"), call.run);
  return {{"seconds", sample.seconds}, {"others", sample.others}, {"cpu", sample.cpu}};
}

}  // namespace

bool intel_processor() {
#if defined(__x86_64__)
  unsigned level = 0, b = 0, c = 0, d = 0;
  // "Genu" "ineI" "ntel"
  return __get_cpuid(0, &level, &b, &c, &d) && b == 0x756e6547 && d == 0x49656e69 && c == 0x6c65746e;
#else
  return false;
#endif
}

int serve_peer(int threads) {
  at::set_num_threads(threads);
  std::cout << json{{"torch", TORCH_VERSION}, {"override", vendor_check_is_ours()}} << std::endl;
  std::vector<Prepared> calls;
  for (std::string line; std::getline(std::cin, line);) {
    json reply;
    try {
      reply = answer(io::parse_json(line, "request"), calls);
    } catch (const std::exception& error) {
      reply = {{"error", message_of(error)}};
    }
    std::cout << reply << std::endl;
  }
  return 0;
}

}  // namespace fpsa::app::bench
