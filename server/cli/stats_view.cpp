#include "server/cli/stats_view.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "server/console/text.h"

namespace espalier::cli {
namespace {

using Counter = int64_t (v1::GetStatsResponse::*)() const;
using Stats = v1::GetStatsResponse;

double Gained(const StatsSpan& span, Counter counter) {
  return static_cast<double>((span.now.*counter)() - (span.before.*counter)());
}

double Rate(const StatsSpan& span, Counter counter) {
  return span.seconds > 0.0 ? Gained(span, counter) / span.seconds : 0.0;
}

// In percent; -1 where there is nothing to divide by.
double Percent(double part, double whole) { return whole > 0.0 ? 100.0 * part / whole : -1.0; }

// Of all tokens whose KV was needed, those that the prefix cache held.
double CachedPercent(const StatsSpan& span) {
  const double cached = Gained(span, &Stats::cached_tokens);
  return Percent(cached, cached + Gained(span, &Stats::computed_tokens));
}

double SavedPercent(const StatsSpan& span) {
  const double alone = Gained(span, &Stats::kv_read_bytes_sequence);
  return Percent(alone - Gained(span, &Stats::kv_read_bytes), alone);
}

std::string ShowPercent(double percent) {
  if (percent < 0.0) return "-";
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%.0f %%", percent);
  return text.data();
}

std::string Sparkline(const std::vector<double>& history, int columns) {
  constexpr std::array<const char*, 8> kLevels = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const auto shown = std::min(history.size(), static_cast<size_t>(std::max(columns, 0)));
  const auto begin = history.end() - static_cast<std::ptrdiff_t>(shown);
  const double max = shown == 0 ? 0.0 : *std::max_element(begin, history.end());
  std::string line;
  for (auto rate = begin; rate != history.end(); ++rate) {
    const double share = max > 0.0 ? *rate / max : 0.0;
    line += kLevels[static_cast<size_t>(std::clamp(share * 7.99, 0.0, 7.0))];
  }
  return line;
}

std::string StepText(const StatsSpan& span) {
  const double steps = Gained(span, &Stats::steps);
  const double step_us = Gained(span, &Stats::step_us);
  if (steps <= 0.0 || step_us <= 0.0) return "none";
  std::array<char, 160> text{};
  std::snprintf(text.data(), text.size(), "%s/s, %.2f ms each: %s forward (%s of it attention); %s planning",
                Count(Rate(span, &Stats::steps)).c_str(), step_us / steps * 1e-3,
                ShowPercent(Percent(Gained(span, &Stats::forward_us), step_us)).c_str(),
                ShowPercent(Percent(Gained(span, &Stats::attention_us), step_us)).c_str(),
                ShowPercent(Percent(Gained(span, &Stats::plan_us), step_us)).c_str());
  return text.data();
}

}  // namespace

double TokenRate(const StatsSpan& span) { return Rate(span, &Stats::generated_tokens); }

std::vector<std::string> DrawStats(const StatsSpan& span, const std::vector<double>& history, int width) {
  const Stats& now = span.now;
  const auto number = [](int64_t value) { return std::to_string(value); };
  const auto rate = [&](Counter counter) { return Count(Rate(span, counter)) + "/s"; };
  const int bar = std::clamp(width - 60, 8, 40);
  const int used = now.blocks_live() + now.blocks_indexed() + now.blocks_scratch();
  std::vector<std::pair<const char*, std::string>> rows;
  rows.emplace_back("generated", rate(&Stats::generated_tokens) + " tokens  " +
                                     Sparkline(history, std::min(60, width - 32)));
  rows.emplace_back("computed", rate(&Stats::computed_tokens) + " tokens, prefill and decode");
  rows.emplace_back("from cache", ShowPercent(CachedPercent(span)) + " of the tokens that were needed");
  rows.emplace_back("KV bytes", ShowPercent(SavedPercent(span)) + " saved: read " +
                                    Bytes(Rate(span, &Stats::kv_read_bytes)) + "/s instead of " +
                                    Bytes(Rate(span, &Stats::kv_read_bytes_sequence)) + "/s path by path");
  rows.emplace_back("steps", StepText(span));
  rows.emplace_back("requests", number(now.requests_active() - now.requests_queued()) + " running, " +
                                    number(now.requests_queued()) + " queued; " + number(now.finished()) +
                                    " finished, " + number(now.cancelled()) + " cancelled");
  rows.emplace_back("clients", number(now.peers_active()) + " with requests, " +
                                   Bytes(static_cast<double>(now.unread_bytes())) + " of answers unread");
  rows.emplace_back("branches", number(now.branches_active()) + " in memory");
  rows.emplace_back("KV blocks", Bar(used, now.blocks_total(), bar) + "  " + number(now.blocks_live()) +
                                     " live, " + number(now.blocks_indexed()) + " cached, " +
                                     number(now.blocks_free()) + " free of " + number(now.blocks_total()));
  rows.emplace_back("since start", Count(static_cast<double>(now.generated_tokens())) +
                                       " tokens generated, " + number(now.preemptions()) + " preemptions, " +
                                       number(now.evicted_blocks()) + " blocks evicted");
  std::vector<std::string> lines;
  for (const auto& [name, text] : rows) {
    std::string line = name;
    line.resize(13, ' ');
    lines.push_back(Fit(line + text, width));
  }
  return lines;
}

std::string StatsHeader() {
  return "tokens/s  computed/s  requests  queued  branches    live  cached    free  hits %  saved %";
}

std::string StatsLine(const StatsSpan& span) {
  const Stats& now = span.now;
  const auto percent = [](double value) {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "%.0f", value);
    return value < 0.0 ? std::string("-") : std::string(text.data());
  };
  std::array<char, 192> text{};
  std::snprintf(text.data(), text.size(), "%8.0f  %10.0f  %8d  %6d  %8d  %6d  %6d  %6d  %6s  %7s",
                TokenRate(span), Rate(span, &Stats::computed_tokens),
                now.requests_active() - now.requests_queued(), now.requests_queued(), now.branches_active(),
                now.blocks_live(), now.blocks_indexed(), now.blocks_free(),
                percent(CachedPercent(span)).c_str(), percent(SavedPercent(span)).c_str());
  return text.data();
}

}  // namespace espalier::cli
