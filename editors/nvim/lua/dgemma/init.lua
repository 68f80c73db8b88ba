--- Suggestions of the dgemma language server, as ghost text. See |dgemma.txt|.
local M = {}

--- Start the server for its file types, show what it suggests, and map the keys. Nothing happens without this call.
---@param options? dgemma.Options see |dgemma-options|
function M.setup(options)
  if vim.fn.has('nvim-0.10') == 0 then
    vim.notify('dgemma: Neovim 0.10 or later is needed', vim.log.levels.ERROR)
    return
  end
  local config = require('dgemma.config')
  config.set(options)
  local ghost, inline, keys = require('dgemma.ghost'), require('dgemma.inline'), require('dgemma.keys')
  local next_edit, server, status = require('dgemma.next_edit'), require('dgemma.server'), require('dgemma.status')
  local group = vim.api.nvim_create_augroup('dgemma', { clear = true })

  for _, drawing in ipairs({ ghost, next_edit }) do
    drawing.define_highlights()
    vim.api.nvim_create_autocmd('ColorScheme', { group = group, callback = drawing.define_highlights })
  end
  vim.api.nvim_create_autocmd('LspAttach', {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if not client or client.name ~= server.NAME or not client.server_capabilities.inlineCompletionProvider then
        return
      end
      if config.options.native then
        local native = require('dgemma.native')
        inline.attach(event.buf, client.id, native)
        native.enable(event.buf, client)
      else
        inline.attach(event.buf, client.id, ghost)
        if vim.lsp.inline_completion then
          vim.lsp.inline_completion.enable(false, { client_id = client.id })
        end
      end
      keys.attach(event.buf)
      next_edit.attach(event.buf)
    end,
  })
  vim.api.nvim_create_autocmd('LspDetach', {
    group = group,
    callback = function(event)
      inline.detach(event.buf, event.data.client_id)
      if not inline.client(event.buf) then
        keys.detach(event.buf)
        next_edit.detach(event.buf)
      end
    end,
  })
  vim.api.nvim_create_autocmd({ 'InsertEnter', 'TextChangedI', 'TextChangedP', 'CursorMovedI' }, {
    group = group,
    callback = function(event)
      inline.follow(event.buf)
    end,
  })
  vim.api.nvim_create_autocmd('InsertEnter', {
    group = group,
    callback = vim.schedule_wrap(function(event) -- other plugins may map their keys at the same event
      keys.tell_conflicts(event.buf)
    end),
  })
  vim.api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave', 'WinLeave' }, {
    group = group,
    callback = function(event)
      inline.drop(event.buf)
    end,
  })
  vim.api.nvim_create_autocmd({ 'TextChanged', 'InsertLeave' }, {
    group = group,
    callback = function(event)
      next_edit.follow(event.buf)
    end,
  })
  vim.api.nvim_create_autocmd({ 'InsertEnter', 'BufLeave', 'WinLeave' }, {
    group = group,
    callback = function(event)
      next_edit.drop(event.buf)
    end,
  })
  status.enable(group)
  server.follow_renames(group)
  server.enable(group)
end

---@param length fun(text: string): integer
---@return boolean
local function accept(length)
  return require('dgemma.inline').accept(vim.api.nvim_get_current_buf(), length)
end

--- Write the visible suggestion.
---@return boolean whether there was one; the same holds for the functions below
function M.accept()
  return accept(string.len)
end

--- Write its next word.
function M.accept_word()
  return accept(require('dgemma.suggestion').word_length)
end

--- Write the rest of its line.
function M.accept_line()
  return accept(require('dgemma.suggestion').line_length)
end

--- Show the next candidate.
function M.next()
  return require('dgemma.inline').select(vim.api.nvim_get_current_buf(), 1)
end

--- Show the previous candidate.
function M.previous()
  return require('dgemma.inline').select(vim.api.nvim_get_current_buf(), -1)
end

--- Hide the visible suggestion, or the next edit.
function M.dismiss()
  local bufnr, visible = vim.api.nvim_get_current_buf(), false
  for _, shown in ipairs({ require('dgemma.inline'), require('dgemma.next_edit') }) do
    visible = visible or shown.visible(bufnr) ~= nil
    shown.drop(bufnr)
  end
  return visible
end

--- Go to the next edit; make it, where the cursor is there already.
function M.next_edit()
  return require('dgemma.next_edit').go_or_accept()
end

--- Ask for a suggestion at the cursor.
function M.suggest()
  local inline = require('dgemma.inline')
  inline.ask(vim.api.nvim_get_current_buf(), inline.INVOKED)
end

--- Whether a suggestion is visible.
---@return boolean
function M.visible()
  return require('dgemma.inline').visible(vim.api.nvim_get_current_buf()) ~= nil
end

--- A few words for a status line; empty in buffers that the server is not for.
---@return string
function M.statusline()
  local text = require('dgemma.status').text()
  return text and ('dgemma: ' .. text) or ''
end

return M
