--- Ghost text drawn by Neovim's own `vim.lsp.inline_completion` (0.12).
---
--- Neovim asks and draws. What it does not do: it takes late answers, keeps showing what the user has typed past,
--- and accepts where the text has moved on. So every answer to it goes through `inline`, and Neovim gets to see one
--- item only: the one that fits, for the text as it is now.
local config = require('dgemma.config')
local inline = require('dgemma.inline')

---@class dgemma.Native : dgemma.Display
local M = { asks = false }

local hints = vim.api.nvim_create_namespace('dgemma')

---@type table<integer, lsp.Handler> by buffer: how Neovim takes its answers
local handlers = {}
---@type table<integer, function> by client
local unguarded = {}

--- See to it that answers to Neovim's requests pass through `inline`.
---@param client vim.lsp.Client
local function guard(client)
  local request = client.request
  unguarded[client.id] = request
  ---@diagnostic disable-next-line: duplicate-set-field
  client.request = function(self, method, params, handler, bufnr)
    if method ~= inline.METHOD or inline.client(bufnr) ~= client then
      return request(self, method, params, handler, bufnr)
    end
    if not handlers[bufnr] then
      vim.schedule(function()
        inline.draw(bufnr) -- what came before Neovim had asked for anything
      end)
    end
    handlers[bufnr] = handler
    if not config.options.automatic or not inline.is_wanted(bufnr) then
      return false
    end
    local asked = inline.begin(bufnr)
    return request(self, method, params, function(_, result)
      inline.receive(bufnr, asked, result)
    end, bufnr)
  end
end

---@param bufnr integer
---@param client vim.lsp.Client
function M.enable(bufnr, client)
  if not unguarded[client.id] then
    guard(client)
  end
  handlers[bufnr] = nil -- an earlier client's
  -- For the buffer, not for the client alone: else 0.12.4 never lets go of a client that has died, and fails later.
  vim.lsp.inline_completion.enable(true, { bufnr = bufnr })
end

---@param bufnr integer
---@param client_id integer
---@param items lsp.InlineCompletionItem[]
local function present(bufnr, client_id, items)
  vim.api.nvim_buf_clear_namespace(bufnr, hints, 0, -1)
  if handlers[bufnr] and vim.lsp.buf_is_attached(bufnr, client_id) then
    handlers[bufnr](nil, items, { client_id = client_id, bufnr = bufnr, method = inline.METHOD })
  end
end

---@param bufnr integer
---@param client vim.lsp.Client
---@param shown dgemma.Suggestion
---@param hint? string
function M.draw(bufnr, client, shown, hint)
  local line = shown.before .. shown.covered .. shown.after
  local function position(byte)
    return { line = shown.row, character = vim.str_utfindex(line, client.offset_encoding, byte) }
  end
  local range = { start = position(#shown.before), ['end'] = position(#shown.before + #shown.covered) }
  present(bufnr, client.id, { { insertText = shown.text, range = range } })
  if hint then
    vim.api.nvim_buf_set_extmark(bufnr, hints, shown.row, 0, { virt_text = { { hint, 'ComplHintMore' } } })
  end
end

---@param bufnr integer
---@param client_id integer
function M.clear(bufnr, client_id)
  present(bufnr, client_id, {})
end

--- Whether it is ours that Neovim shows: other servers may suggest in the same buffer.
---@param bufnr integer
---@param suggestion dgemma.Suggestion
function M.shows(bufnr, suggestion)
  local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  local marks = vim.api.nvim_buf_get_extmarks(bufnr, namespace, 0, -1, { details = true })
  if not marks[1] or marks[1][2] ~= suggestion.row then
    return false
  end
  local lines = {}
  for _, line in ipairs({ marks[1][4].virt_text, unpack(marks[1][4].virt_lines or {}) }) do
    table.insert(lines, line[1][1])
  end
  local shown = table.concat(lines, '\n')
  -- It leaves out text that the line already has; and it may not have been drawn again since the last key.
  return vim.endswith(suggestion.text, shown) or vim.endswith(shown, suggestion.text)
end

function M.request(client, ...)
  return unguarded[client.id](client, ...)
end

return M
